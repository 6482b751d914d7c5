//! What a CLIP model is made of: sizes, as open_clip's JSON configurations describe them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, unknown};
use crate::ops::linear::Activation;

/// A CLIP of two transformers. The fields' names are open_clip's own, so that one file serves both programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Width D of the shared embedding.
    pub embed_dim: usize,
    pub vision_cfg: VisionSpec,
    pub text_cfg: TextSpec,
    /// x sigmoid(1.702 x) in place of the exact GELU.
    #[serde(default)]
    pub quick_gelu: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    pub image_size: usize,
    pub layers: usize,
    pub width: usize,
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    pub patch_size: usize,
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    pub context_length: usize,
    pub vocab_size: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
}

fn default_head_width() -> usize {
    64
}

fn default_mlp_ratio() -> f64 {
    4.0
}

/// The sizes of one transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransformerSpec {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the hidden layer of the two-layer perceptron.
    pub hidden: usize,
    pub causal: bool,
    pub activation: Activation,
}

/// The models that come with the program: a name and open_clip's JSON.
const BUNDLED: [(&str, &str); 5] = [
    ("ViT-B-32", include_str!("../../presets/models/ViT-B-32.json")),
    ("ViT-B-16", include_str!("../../presets/models/ViT-B-16.json")),
    ("ViT-L-14", include_str!("../../presets/models/ViT-L-14.json")),
    ("emoji-small", include_str!("../../presets/models/emoji-small.json")),
    ("emoji-tiny", include_str!("../../presets/models/emoji-tiny.json")),
];

impl ModelSpec {
    /// Layer norm's epsilon, the same in every model that open_clip describes.
    pub const LAYER_NORM_EPS: f64 = 1e-5;

    /// Names of the bundled models.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        BUNDLED.iter().map(|(name, _)| *name)
    }

    /// A bundled model by name, or one from a file whose name ends in `.json`.
    pub fn find(name: &str) -> Result<ModelSpec> {
        if let Some((_, json)) = BUNDLED.iter().find(|(known, _)| *known == name) {
            return ModelSpec::from_json(json);
        }
        if !name.ends_with(".json") {
            return Err(unknown("model", name, ModelSpec::names()));
        }
        let path = Path::new(name);
        let json = std::fs::read_to_string(path).map_err(|cause| Error::reading(path, cause))?;
        ModelSpec::from_json(&json).map_err(|error| error.at(name))
    }

    /// Whether [`ModelSpec::find`]'s file says in words which activation its model uses; of a bundled model only the sizes
    /// are meant.
    pub fn says_activation(name: &str) -> bool {
        let value = std::fs::read_to_string(name).ok().and_then(|json| serde_json::from_str(&json).ok());
        let value: serde_json::Value = value.unwrap_or_default();
        value.get("model_cfg").unwrap_or(&value).get("quick_gelu").is_some()
    }

    /// Reads open_clip's JSON, also inside the `model_cfg` of an `open_clip_config.json`.
    pub fn from_json(json: &str) -> Result<ModelSpec> {
        let wrong = |cause: serde_json::Error| Error::input(format!("not a model configuration: {cause}"));
        let mut value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
        if let Some(inner) = value.get_mut("model_cfg") {
            value = inner.take();
        }
        let spec: ModelSpec = serde_json::from_value(value).map_err(wrong)?;
        spec.validate()?;
        Ok(spec)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a specification is plain numbers")
    }

    fn validate(&self) -> Result<()> {
        /// Each looks at each other: no picture is worth more.
        const MOST_PATCHES: usize = 1 << 16;
        let (vision, text) = (&self.vision_cfg, &self.text_cfg);
        let sizes = [
            ("embed_dim", self.embed_dim),
            ("vision_cfg.image_size", vision.image_size),
            ("vision_cfg.layers", vision.layers),
            ("vision_cfg.width", vision.width),
            ("vision_cfg.head_width", vision.head_width),
            ("vision_cfg.patch_size", vision.patch_size),
            ("text_cfg.context_length", text.context_length),
            ("text_cfg.vocab_size", text.vocab_size),
            ("text_cfg.width", text.width),
            ("text_cfg.heads", text.heads),
            ("text_cfg.layers", text.layers),
        ];
        for (field, size) in sizes {
            // Each layer is a dozen tensors with names of their own.
            let most_bits = if field.ends_with(".layers") { 10 } else { 20 };
            if size == 0 || size > 1 << most_bits {
                return Err(Error::input(format!("{field} is {size}; it must lie between 1 and 2^{most_bits}")));
            }
        }
        if vision.width % vision.head_width != 0 {
            return Err(Error::input(format!(
                "vision_cfg.width {} is no multiple of head_width {}",
                vision.width, vision.head_width
            )));
        }
        if text.width % text.heads != 0 {
            return Err(Error::input(format!("text_cfg.width {} is no multiple of heads {}", text.width, text.heads)));
        }
        if vision.patch_size > vision.image_size {
            return Err(Error::input(format!(
                "vision_cfg.patch_size {} is larger than image_size {}",
                vision.patch_size, vision.image_size
            )));
        }
        if self.patches() > MOST_PATCHES {
            return Err(Error::input(format!(
                "vision_cfg.image_size {} in patches of {} makes {} of them; {MOST_PATCHES} are the most",
                vision.image_size,
                vision.patch_size,
                self.patches()
            )));
        }
        if text.context_length < 2 {
            return Err(Error::input("text_cfg.context_length must hold at least the start and the end token"));
        }
        for (field, ratio) in [("vision_cfg", vision.mlp_ratio), ("text_cfg", text.mlp_ratio)] {
            if !(0.01..=64.0).contains(&ratio) {
                return Err(Error::input(format!("{field}.mlp_ratio is {ratio}; it must lie between 0.01 and 64")));
            }
        }
        Ok(())
    }

    pub fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }

    pub fn vision(&self) -> TransformerSpec {
        let vision = &self.vision_cfg;
        TransformerSpec {
            width: vision.width,
            layers: vision.layers,
            heads: vision.width / vision.head_width,
            hidden: (vision.width as f64 * vision.mlp_ratio) as usize,
            causal: false,
            activation: self.activation(),
        }
    }

    pub fn text(&self) -> TransformerSpec {
        let text = &self.text_cfg;
        TransformerSpec {
            width: text.width,
            layers: text.layers,
            heads: text.heads,
            hidden: (text.width as f64 * text.mlp_ratio) as usize,
            causal: true,
            activation: self.activation(),
        }
    }

    /// Patches of one image; the image tower sees one token more.
    pub fn patches(&self) -> usize {
        let side = self.vision_cfg.image_size / self.vision_cfg.patch_size;
        side * side
    }

    /// Multiply-accumulates of the image tower's forward pass for one image.
    pub fn image_macs(&self) -> u64 {
        let vision = &self.vision_cfg;
        let patches = self.patches();
        let patch_projection = patches * 3 * vision.patch_size * vision.patch_size * vision.width;
        (patch_projection + vision.width * self.embed_dim) as u64 + self.vision().macs(patches + 1)
    }

    /// Multiply-accumulates of the text tower's forward pass for one text of `tokens` tokens.
    pub fn text_macs(&self, tokens: usize) -> u64 {
        (self.text_cfg.width * self.embed_dim) as u64 + self.text().macs(tokens)
    }
}

impl TransformerSpec {
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Multiply-accumulates of one sequence's forward pass: the four products of each block, and the two of attention.
    fn macs(&self, tokens: usize) -> u64 {
        let products = tokens * self.width * (4 * self.width + 2 * self.hidden);
        let attention = 2 * tokens * tokens * self.width;
        (self.layers * (products + attention)) as u64
    }
}
