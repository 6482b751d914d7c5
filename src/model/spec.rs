//! What a CLIP model is made of: sizes, as open_clip's JSON configurations describe them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, unknown};
use crate::files::read_text;
use crate::ops::linear::Activation;

/// A CLIP of two transformers. The fields' names are open_clip's own, so that one file serves both programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Width D of the shared embedding.
    pub embed_dim: usize,
    /// The image tower.
    pub vision_cfg: VisionSpec,
    /// The text tower.
    pub text_cfg: TextSpec,
    /// x sigmoid(1.702 x) in place of the exact GELU.
    #[serde(default)]
    pub quick_gelu: bool,
}

/// How a configuration tells which activation its model uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By `quick_gelu`.
    InWords,
    /// Not in words, but it was written for weights, and the program that wrote it has a default.
    ByDefault,
    /// Only sizes are meant: weights of either activation have them.
    Not,
}

/// Sizes of the image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    /// Edge of the square image, in pixels.
    pub image_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of a token.
    pub width: usize,
    /// Width of an attention head: `width` is a multiple of it. 64 unless said otherwise.
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    /// Edge of a square patch, in pixels.
    pub patch_size: usize,
    /// Width of a block's hidden layer, as a multiple of `width`. 4 unless said otherwise.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
}

/// Sizes of the text tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// Tokens of the longest text, its start and end included.
    pub context_length: usize,
    /// Rows of the token table: 49,408 for CLIP's tokenizer.
    pub vocab_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Attention heads: `width` is a multiple of them.
    pub heads: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of a block's hidden layer, as a multiple of `width`. 4 unless said otherwise.
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
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Width of the hidden layer of the two-layer perceptron.
    pub(crate) hidden: usize,
    pub(crate) causal: bool,
    pub(crate) activation: Activation,
}

/// The models that come with the program: a name and open_clip's JSON.
const BUNDLED: [(&str, &str); 5] = [
    ("ViT-B-32", include_str!("../../presets/models/ViT-B-32.json")),
    ("ViT-B-16", include_str!("../../presets/models/ViT-B-16.json")),
    ("ViT-L-14", include_str!("../../presets/models/ViT-L-14.json")),
    ("emoji-small", include_str!("../../presets/models/emoji-small.json")),
    ("emoji-tiny", include_str!("../../presets/models/emoji-tiny.json")),
];

/// The largest sizes of a model. ViT-bigG-14 has a width of 1,664 and 48 layers.
const MOST_WIDTH: usize = 1 << 15;
const MOST_LAYERS: usize = 1024;
/// Of the edge of a picture.
const MOST_PIXELS: usize = 4096;
const MOST_TOKENS: usize = 1 << 16;
const MOST_WORDS: usize = 1 << 20;

impl ModelSpec {
    /// Layer norm's epsilon, the same in every model that open_clip describes.
    pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

    /// Names of the bundled models.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
        BUNDLED.iter().map(|(name, _)| *name)
    }

    /// A bundled model by name, or one from a file whose name ends in `.json`.
    pub fn find(name: &str) -> Result<ModelSpec> {
        Ok(ModelSpec::find_with_activation(name)?.0)
    }

    /// The same, and how it tells its activation; of a bundled model only the sizes are meant.
    pub(crate) fn find_with_activation(name: &str) -> Result<(ModelSpec, Told)> {
        if let Some((_, json)) = BUNDLED.iter().find(|(known, _)| *known == name) {
            return Ok((ModelSpec::from_json(json)?, Told::Not));
        }
        if !name.ends_with(".json") {
            return Err(unknown("model", name, ModelSpec::names()));
        }
        let path = Path::new(name);
        let json = read_text(path)?;
        ModelSpec::read_json(&json).map_err(|error| error.at(name))
    }

    /// Reads open_clip's JSON, also inside the `model_cfg` of an `open_clip_config.json`.
    pub fn from_json(json: &str) -> Result<ModelSpec> {
        Ok(ModelSpec::read_json(json)?.0)
    }

    /// The same, and how it tells its activation. Without `quick_gelu`, an `open_clip_config.json`, which open_clip writes
    /// beside weights, means the exact GELU; the bare sizes mean nothing.
    pub(crate) fn read_json(json: &str) -> Result<(ModelSpec, Told)> {
        let wrong = |cause: serde_json::Error| Error::input(format!("not a model configuration: {cause}"));
        let mut value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
        let mut told = Told::Not;
        if let Some(inner) = value.get_mut("model_cfg") {
            value = inner.take();
            told = Told::ByDefault;
        }
        if value.get("quick_gelu").is_some() {
            told = Told::InWords;
        }
        drop_neutral(&mut value)?;
        let spec: ModelSpec = serde_json::from_value(value).map_err(wrong)?;
        spec.validate()?;
        Ok((spec, told))
    }

    /// As open_clip's model JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a specification is plain numbers")
    }

    /// For messages: the bundled model of these sizes by its name, or else the JSON; and which activation it is.
    pub(crate) fn in_words(&self) -> String {
        let sizes = |name: &&str| {
            ModelSpec::find(name).is_ok_and(|known| known == ModelSpec { quick_gelu: false, ..self.clone() })
        };
        match ModelSpec::names().find(sizes) {
            Some(name) => format!("{name} with {}", self.activation_name()),
            None => self.to_json(),
        }
    }

    /// As `--activation` takes it.
    pub(crate) fn activation_name(&self) -> &'static str {
        if self.quick_gelu { "quick_gelu" } else { "gelu" }
    }

    /// Sizes come from files of others. They are bound to a few times those of the largest models there are, so that neither a
    /// kilobyte of text can ask for a terabyte, nor any sum or product of them run over.
    fn validate(&self) -> Result<()> {
        let (vision, text) = (&self.vision_cfg, &self.text_cfg);
        let sizes = [
            ("embed_dim", self.embed_dim, MOST_WIDTH),
            ("vision_cfg.image_size", vision.image_size, MOST_PIXELS),
            ("vision_cfg.layers", vision.layers, MOST_LAYERS),
            ("vision_cfg.width", vision.width, MOST_WIDTH),
            ("vision_cfg.head_width", vision.head_width, MOST_WIDTH),
            ("vision_cfg.patch_size", vision.patch_size, MOST_PIXELS),
            ("text_cfg.context_length", text.context_length, MOST_TOKENS),
            ("text_cfg.vocab_size", text.vocab_size, MOST_WORDS),
            ("text_cfg.width", text.width, MOST_WIDTH),
            ("text_cfg.heads", text.heads, MOST_WIDTH),
            ("text_cfg.layers", text.layers, MOST_LAYERS),
        ];
        for (field, size, most) in sizes {
            if size == 0 || size > most {
                return Err(Error::input(format!("{field} is {size}; it must lie between 1 and {most}")));
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
        if self.patches() > MOST_TOKENS {
            return Err(Error::input(format!(
                "vision_cfg: patches of {} pixels make {} of a picture of {}; there must be {MOST_TOKENS} at most",
                vision.patch_size,
                self.patches(),
                vision.image_size
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

    pub(crate) fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }

    /// The image tower's transformer: no mask.
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

    /// The text tower's transformer: under a causal mask.
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

/// What open_clip's configurations may say beside the sizes of two plain transformers: the key, and the values at which it says nothing.
/// Where there are none, any value is without meaning in such a model.
const BESIDE: [(&str, &str, &[&str]); 42] = [
    ("", "custom_text", &["false"]),
    ("", "init_logit_scale", &[]),
    ("", "init_logit_bias", &[NULL]),
    ("", "nonscalar_logit_scale", &[]),
    ("", "cast_dtype", &[]),
    ("", "output_dict", &[]),
    ("", "multimodal_cfg", &[NULL]),
    ("", "dual_patchnorm", &["false"]),
    ("vision_cfg", "ls_init_value", &[NULL]),
    ("vision_cfg", "patch_dropout", &[]),
    ("vision_cfg", "attentional_pool", &["false"]),
    ("vision_cfg", "attn_pooler_queries", &[]),
    ("vision_cfg", "attn_pooler_heads", &[]),
    ("vision_cfg", "no_ln_pre", &["false"]),
    ("vision_cfg", "pos_embed_type", &["\"learnable\""]),
    ("vision_cfg", "final_ln_after_pool", &["false"]),
    ("vision_cfg", "pool_type", &["\"tok\""]),
    ("vision_cfg", "output_tokens", &["false"]),
    ("vision_cfg", "act_kwargs", &[NULL, "{}"]),
    ("vision_cfg", "norm_kwargs", &[NULL, "{}", "{\"eps\":0.00001}", "{\"eps\":1e-5}"]),
    ("vision_cfg", "block_type", &[NULL, "\"default\""]),
    ("vision_cfg", "timm_model_name", &[NULL]),
    ("vision_cfg", "timm_model_pretrained", &[]),
    ("vision_cfg", "timm_pool", &[]),
    ("vision_cfg", "timm_proj", &[]),
    ("vision_cfg", "timm_proj_bias", &[]),
    ("vision_cfg", "timm_drop", &[]),
    ("vision_cfg", "timm_drop_path", &[]),
    ("text_cfg", "ls_init_value", &[NULL]),
    ("text_cfg", "embed_cls", &["false"]),
    ("text_cfg", "pad_id", &[]),
    ("text_cfg", "eos_id", &[]),
    ("text_cfg", "no_causal_mask", &["false"]),
    ("text_cfg", "final_ln_after_pool", &["false"]),
    ("text_cfg", "pool_type", &["\"argmax\""]),
    ("text_cfg", "proj_type", &["\"linear\""]),
    ("text_cfg", "proj_bias", &["false"]),
    ("text_cfg", "output_tokens", &["false"]),
    ("text_cfg", "act_kwargs", &[NULL, "{}"]),
    ("text_cfg", "hf_model_name", &[NULL]),
    ("text_cfg", "hf_tokenizer_name", &[NULL, "\"\""]),
    ("text_cfg", "tokenizer_kwargs", &[NULL, "{}"]),
];

const NULL: &str = "null";

/// Takes out of a configuration of open_clip's what says nothing, and refuses in words what would be another model.
fn drop_neutral(config: &mut serde_json::Value) -> Result<()> {
    for (section, key, neutral) in BESIDE {
        let place = if section.is_empty() { Some(&mut *config) } else { config.get_mut(section) };
        let Some(object) = place.and_then(|place| place.as_object_mut()) else { continue };
        let Some(value) = object.get(key) else { continue };
        let text = value.to_string();
        if !neutral.is_empty() && !neutral.contains(&text.as_str()) {
            let field = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
            let hint = match key {
                "custom_text" => {
                    ": leave it out where the text tower is open_clip's own; names that begin with 'text.' are read"
                }
                _ => "",
            };
            return Err(Error::input(format!(
                "{field} is {}, and only CLIP of two plain transformers, with CLIP's tokenizer, is built here{hint}",
                text.chars().take(100).collect::<String>()
            )));
        }
        object.shift_remove(key);
    }
    for tower in ["vision_cfg", "text_cfg"] {
        if config.get(tower).and_then(|tower| tower.get("layers")).is_some_and(|layers| layers.is_array()) {
            return Err(Error::input(format!(
                "{tower}.layers is a list: a ResNet, and only transformers are built here"
            )));
        }
    }
    Ok(())
}

impl TransformerSpec {
    pub(crate) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Multiply-accumulates of one sequence's forward pass: the four products of each block, and the two of attention.
    fn macs(&self, tokens: usize) -> u64 {
        let products = tokens * self.width * (4 * self.width + 2 * self.hidden);
        let attention = 2 * tokens * tokens * self.width;
        (self.layers * (products + attention)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters::{Parameter, ParameterList};

    fn message(change: impl FnOnce(&mut ModelSpec)) -> String {
        let mut spec = ModelSpec::find("ViT-B-16").unwrap();
        change(&mut spec);
        ModelSpec::from_json(&spec.to_json()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn sizes_beyond_all_models_are_refused() {
        let refused = |change: fn(&mut ModelSpec), what: &str| {
            let message = message(change);
            assert!(message.contains(what), "'{what}' is not in: {message}");
        };
        refused(
            |spec| spec.vision_cfg.layers = 1 << 20,
            "vision_cfg.layers is 1048576; it must lie between 1 and 1024",
        );
        refused(|spec| spec.text_cfg.layers = 1025, "text_cfg.layers is 1025");
        refused(|spec| spec.vision_cfg.image_size = 1 << 20, "vision_cfg.image_size is 1048576");
        refused(|spec| spec.vision_cfg.width = 1 << 20, "vision_cfg.width is 1048576");
        refused(|spec| spec.text_cfg.heads = 0, "text_cfg.heads is 0");
        let tiles = |spec: &mut ModelSpec| (spec.vision_cfg.image_size, spec.vision_cfg.patch_size) = (4096, 1);
        refused(tiles, "patches of 1 pixels make 16777216 of a picture of 4096; there must be 65536 at most");
    }

    #[test]
    fn no_sum_of_the_largest_sizes_runs_over() {
        let mut spec = ModelSpec::find("ViT-B-16").unwrap();
        spec.embed_dim = MOST_WIDTH;
        let vision = &mut spec.vision_cfg;
        (vision.image_size, vision.patch_size, vision.layers) = (MOST_PIXELS, 16, MOST_LAYERS);
        (vision.width, vision.head_width, vision.mlp_ratio) = (MOST_WIDTH, 1, 64.0);
        let text = &mut spec.text_cfg;
        (text.context_length, text.vocab_size, text.layers) = (MOST_TOKENS, MOST_WORDS, MOST_LAYERS);
        (text.width, text.heads, text.mlp_ratio) = (MOST_WIDTH, MOST_WIDTH, 64.0);
        let spec = ModelSpec::from_json(&spec.to_json()).unwrap();
        // Once more in numbers that cannot run over.
        let width = MOST_WIDTH as u128;
        let macs = |tokens: u128| {
            MOST_LAYERS as u128 * (tokens * width * (4 * width + 2 * 64 * width) + 2 * tokens * tokens * width)
        };
        assert_eq!(u128::from(spec.text_macs(MOST_TOKENS)), macs(MOST_TOKENS as u128) + width * width);
        let patches = u128::try_from(spec.patches()).unwrap();
        assert_eq!(patches, 65536);
        let rest = patches * 3 * 16 * 16 * width + width * width;
        assert_eq!(u128::from(spec.image_macs()), macs(patches + 1) + rest);
        let list = ParameterList::of(&spec);
        let len = |parameter: &Parameter| parameter.shape.iter().map(|extent| *extent as u128).product::<u128>();
        assert_eq!(list.count() as u128, list.iter().map(len).sum());
    }

    #[test]
    fn an_activation_is_told_in_words_by_default_or_not_at_all() {
        let told = |json: &str| ModelSpec::read_json(json).map(|(spec, told)| (spec.quick_gelu, told)).unwrap();
        let sizes = r#""embed_dim": 16, "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1,
            "head_width": 16}, "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}"#;
        assert_eq!(told(&format!("{{{sizes}}}")), (false, Told::Not));
        assert_eq!(told(&format!(r#"{{{sizes}, "quick_gelu": true}}"#)), (true, Told::InWords));
        assert_eq!(told(&format!(r#"{{"model_cfg": {{{sizes}}}}}"#)), (false, Told::ByDefault));
        assert_eq!(told(&format!(r#"{{"model_cfg": {{{sizes}, "quick_gelu": false}}}}"#)), (false, Told::InWords));
        assert_eq!(ModelSpec::find_with_activation("ViT-B-16").unwrap().1, Told::Not);
    }

    #[test]
    fn what_is_no_clip_of_two_plain_transformers_is_refused_in_words() {
        let with = |section: &str, key: &str, value: &str| {
            let mut config: serde_json::Value = serde_json::from_str(BUNDLED[0].1).unwrap();
            let place = if section.is_empty() { &mut config } else { &mut config[section] };
            place[key] = serde_json::from_str(value).unwrap();
            ModelSpec::from_json(&config.to_string()).map_err(|error| error.to_string())
        };
        for (section, key, value) in [
            ("", "custom_text", "true"),
            ("", "init_logit_bias", "-10"),
            ("", "multimodal_cfg", r#"{"width":512}"#),
            ("vision_cfg", "timm_model_name", r#""vit_base_patch16_siglip_224""#),
            ("vision_cfg", "attentional_pool", "true"),
            ("vision_cfg", "pool_type", r#""avg""#),
            ("vision_cfg", "no_ln_pre", "true"),
            ("vision_cfg", "ls_init_value", "0.1"),
            ("text_cfg", "no_causal_mask", "true"),
            ("text_cfg", "pool_type", r#""last""#),
            ("text_cfg", "hf_model_name", r#""xlm-roberta-base""#),
            ("text_cfg", "hf_tokenizer_name", r#""timm/ViT-B-16-SigLIP""#),
            ("text_cfg", "embed_cls", "true"),
        ] {
            let message = with(section, key, value).unwrap_err();
            assert!(
                message.contains(&format!("{key} is {value}")) && message.contains("plain transformers"),
                "{message}"
            );
        }
        assert!(with("vision_cfg", "layers", "[3, 4, 6, 3]").unwrap_err().contains("a ResNet"));
        let plain = ModelSpec::from_json(BUNDLED[0].1).unwrap();
        for (section, key, value) in [
            ("", "init_logit_bias", "null"),
            ("", "init_logit_scale", "2.6592"),
            ("vision_cfg", "patch_dropout", "0.5"),
            ("vision_cfg", "timm_model_name", "null"),
            ("vision_cfg", "pool_type", r#""tok""#),
            ("text_cfg", "pool_type", r#""argmax""#),
            ("text_cfg", "no_causal_mask", "false"),
            ("text_cfg", "eos_id", "2"),
        ] {
            assert_eq!(with(section, key, value).as_ref(), Ok(&plain), "{key}");
        }
        assert!(with("vision_cfg", "unheard_of", "1").unwrap_err().contains("unknown field `unheard_of`"));
    }
}
