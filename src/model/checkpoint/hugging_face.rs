//! The configuration files beside Hugging Face's weights.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::model::spec::{ModelSpec, TextSpec, Told, TransformerSpec, VisionSpec};

/// CLIP's mean and standard deviation of the channels R, G, B, of pixels in [0, 1].
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// `config.json`, a `CLIPConfig`.
pub(crate) fn config(spec: &ModelSpec, logit_scale: f32) -> Value {
    let tower = |kind: &str, transformer: &TransformerSpec| {
        json!({
            "model_type": kind,
            "hidden_size": transformer.width,
            "intermediate_size": transformer.hidden,
            "num_hidden_layers": transformer.layers,
            "num_attention_heads": transformer.heads,
            "hidden_act": if spec.quick_gelu { "quick_gelu" } else { "gelu" },
            "layer_norm_eps": ModelSpec::LAYER_NORM_EPS,
            "projection_dim": spec.embed_dim,
        })
    };
    let mut vision = tower("clip_vision_model", &spec.vision());
    vision["image_size"] = json!(spec.vision_cfg.image_size);
    vision["patch_size"] = json!(spec.vision_cfg.patch_size);
    vision["num_channels"] = json!(3);
    let mut text = tower("clip_text_model", &spec.text());
    // The text's feature is taken at the end token.
    let [start, end] = marks(spec.text_cfg.vocab_size);
    text["vocab_size"] = json!(spec.text_cfg.vocab_size);
    text["max_position_embeddings"] = json!(spec.text_cfg.context_length);
    text["bos_token_id"] = json!(start);
    text["eos_token_id"] = json!(end);
    json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "torch_dtype": "float32",
        "projection_dim": spec.embed_dim,
        "logit_scale_init_value": logit_scale,
        "vision_config": vision,
        "text_config": text,
    })
}

/// Ids of CLIP's tokenizer.
const CLIPS_WORDS: usize = 49408;

/// The ids of the start and the end token: the last two of CLIP's tokenizer, behind which a vocabulary may have more words; of a smaller
/// one its last two.
fn marks(vocabulary: usize) -> [usize; 2] {
    let words = vocabulary.min(CLIPS_WORDS);
    [words.saturating_sub(2), words.saturating_sub(1)]
}

/// `preprocessor_config.json`: CLIP's evaluation transform (resampling 3 is bicubic).
pub(crate) fn preprocessor(spec: &ModelSpec) -> Value {
    let size = spec.vision_cfg.image_size;
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "shortest_edge": size },
        "resample": 3,
        "do_center_crop": true,
        "crop_size": { "height": size, "width": size },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": MEAN,
        "image_std": STD,
    })
}

/// The fields of a `CLIPConfig` that matter; what is missing has the defaults of the `transformers` package. Where an old file
/// has `vision_config_dict` or `text_config_dict`, that counts in place of the other, with defaults for what is missing in it.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    projection_dim: usize,
    vision_config: Vision,
    text_config: Text,
    vision_config_dict: Option<Vision>,
    text_config_dict: Option<Text>,
}

#[derive(Deserialize)]
#[serde(default)]
struct Vision {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    /// Where it is missing, [`DEFAULT_ACTIVATION`].
    hidden_act: Option<String>,
    layer_norm_eps: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct Text {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_act: Option<String>,
    layer_norm_eps: f64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            projection_dim: 512,
            vision_config: Vision::default(),
            text_config: Text::default(),
            vision_config_dict: None,
            text_config_dict: None,
        }
    }
}

impl Default for Vision {
    fn default() -> Vision {
        Vision {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: None,
            layer_norm_eps: ModelSpec::LAYER_NORM_EPS,
        }
    }
}

impl Default for Text {
    fn default() -> Text {
        Text {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            vocab_size: 49408,
            max_position_embeddings: 77,
            hidden_act: None,
            layer_norm_eps: ModelSpec::LAYER_NORM_EPS,
        }
    }
}

/// The activation of a `CLIPConfig` that does not name one.
pub(crate) const DEFAULT_ACTIVATION: &str = "quick_gelu";

/// The model that a `config.json` describes, and how it tells its activation. It is an error of input where it is that of another model
/// than a CLIP with CLIP's tokens.
pub(crate) fn read_config(config: &str) -> Result<(ModelSpec, Told)> {
    let wrong = |cause: serde_json::Error| Error::input(format!("not a CLIP configuration: {cause}"));
    let value: Value = serde_json::from_str(config).map_err(wrong)?;
    check_identity(&value)?;
    let config: Config = serde_json::from_value(value).map_err(wrong)?;
    let vision = config.vision_config_dict.unwrap_or(config.vision_config);
    let text = config.text_config_dict.unwrap_or(config.text_config);
    let (of_images, of_text) = (vision.hidden_act.as_deref(), text.hidden_act.as_deref());
    let told = if of_images.is_some() && of_text.is_some() { Told::InWords } else { Told::ByDefault };
    let quick_gelu = match (of_images.unwrap_or(DEFAULT_ACTIVATION), of_text.unwrap_or(DEFAULT_ACTIVATION)) {
        ("quick_gelu", "quick_gelu") => true,
        ("gelu", "gelu") => false,
        (image, words) => {
            return Err(Error::input(format!(
                "hidden_act is '{image}' for images and '{words}' for text; both must be gelu, or both quick_gelu"
            )));
        }
    };
    for eps in [vision.layer_norm_eps, text.layer_norm_eps] {
        if eps != ModelSpec::LAYER_NORM_EPS {
            return Err(Error::input(format!(
                "layer_norm_eps is {eps}; only {} is supported",
                ModelSpec::LAYER_NORM_EPS
            )));
        }
    }
    if vision.num_attention_heads == 0 || !vision.hidden_size.is_multiple_of(vision.num_attention_heads) {
        return Err(Error::input(format!(
            "vision_config: hidden_size {} is no multiple of num_attention_heads {}",
            vision.hidden_size, vision.num_attention_heads
        )));
    }
    let spec = ModelSpec {
        embed_dim: config.projection_dim,
        vision_cfg: VisionSpec {
            image_size: vision.image_size,
            layers: vision.num_hidden_layers,
            width: vision.hidden_size,
            head_width: vision.hidden_size / vision.num_attention_heads,
            patch_size: vision.patch_size,
            mlp_ratio: ratio(vision.intermediate_size, vision.hidden_size),
        },
        text_cfg: TextSpec {
            context_length: text.max_position_embeddings,
            vocab_size: text.vocab_size,
            width: text.hidden_size,
            heads: text.num_attention_heads,
            layers: text.num_hidden_layers,
            mlp_ratio: ratio(text.intermediate_size, text.hidden_size),
        },
        quick_gelu,
    };
    // Through JSON, where the sizes are checked.
    Ok((ModelSpec::from_json(&spec.to_json())?, told))
}

/// Fails where a `config.json` says that its model is another than CLIP's.
pub(crate) fn check_identity(config: &Value) -> Result<()> {
    let clip = "only CLIP's two towers with CLIP's tokenizer are read";
    let refuse = |what: String| Err(Error::input(format!("{what}; {clip}")));
    let text_of = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
    let model_type = text_of(config, "model_type");
    if let Some(other) = model_type.as_ref().filter(|model_type| model_type.as_str() != "clip") {
        return refuse(format!("model_type is '{other}'"));
    }
    let architectures = config.get("architectures").and_then(Value::as_array);
    let mut architectures = architectures.into_iter().flatten().filter_map(Value::as_str);
    if let Some(other) = architectures.find(|name| !name.starts_with("CLIP") || name.starts_with("CLIPSeg")) {
        return refuse(format!("architectures names '{other}'"));
    }
    if config.get("quantization_config").is_some_and(|settings| !settings.is_null()) {
        return refuse("quantization_config: the weights are quantised, and whole ones are wanted".to_string());
    }
    let towers = [("text_config", "clip_text_model"), ("vision_config", "clip_vision_model")];
    for (tower, own) in towers {
        for key in [tower.to_string(), format!("{tower}_dict")] {
            let Some(tower) = config.get(&key) else { continue };
            if let Some(other) = text_of(tower, "model_type").filter(|other| other != own && other != "clip") {
                return refuse(format!("{key}: model_type is '{other}'"));
            }
        }
    }
    let text =
        ["text_config_dict", "text_config"].into_iter().find_map(|key| config.get(key).filter(|text| text.is_object()));
    let vision = ["vision_config_dict", "vision_config"]
        .into_iter()
        .find_map(|key| config.get(key).filter(|tower| tower.is_object()));
    if let Some(channels) =
        vision.and_then(|vision| vision.get("num_channels")).filter(|channels| **channels != json!(3))
    {
        return refuse(format!("vision_config: num_channels is {channels}, and pictures have 3"));
    }
    let Some(text) = text else { return Ok(()) };
    let vocabulary = text.get("vocab_size").and_then(Value::as_u64).map_or(CLIPS_WORDS, |words| words as usize);
    let [start, end] = marks(vocabulary);
    // The configurations that OpenAI's weights were published with say 0 and 2, the library's defaults of the time.
    for (key, known, old) in [("bos_token_id", start, 0), ("eos_token_id", end, 2)] {
        let other = text.get(key).filter(|id| !id.is_null() && **id != json!(known) && **id != json!(old));
        if let Some(other) = other {
            return refuse(format!(
                "text_config: {key} is {other}, and CLIP's tokenizer has {known} (or {old} in old files)"
            ));
        }
    }
    Ok(())
}

/// The ratio whose product with `width`, rounded down, is `hidden`.
fn ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    if ((ratio * width as f64) as usize) < hidden { ratio.next_up() } else { ratio }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_written_is_read_back() {
        for name in ModelSpec::names() {
            for quick_gelu in [false, true] {
                let spec = ModelSpec { quick_gelu, ..ModelSpec::find(name).unwrap() };
                let read = read_config(&config(&spec, 2.6592).to_string()).unwrap();
                assert_eq!(read, (spec, Told::InWords), "{name}");
            }
        }
    }

    #[test]
    fn what_is_missing_has_hugging_faces_defaults() {
        let spec = ModelSpec { quick_gelu: true, ..ModelSpec::find("ViT-B-32").unwrap() };
        assert_eq!(read_config("{}").unwrap(), (spec, Told::ByDefault));
        let told = |json: &str| read_config(json).unwrap().1;
        assert_eq!(told(r#"{"vision_config": {"hidden_act": "quick_gelu"}}"#), Told::ByDefault);
        let both = r#"{"vision_config": {"hidden_act": "quick_gelu"}, "text_config": {"hidden_act": "quick_gelu"}}"#;
        assert_eq!(told(both), Told::InWords);
    }

    #[test]
    fn dictionaries_of_old_files_count_in_place_of_the_others() {
        let old = r#"{"text_config": {"hidden_size": 64, "vocab_size": 100}, "vision_config": {"patch_size": 14},
            "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12}, "vision_config_dict": null}"#;
        let (spec, _) = read_config(old).unwrap();
        assert_eq!((spec.text_cfg.width, spec.text_cfg.heads, spec.text_cfg.vocab_size), (768, 12, 49408));
        assert_eq!(spec.vision_cfg.patch_size, 14);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let wrong = |json: &str| read_config(json).unwrap_err().to_string();
        assert!(wrong(r#"{"text_config": {"hidden_act": "gelu"}}"#).contains("both must be gelu, or both quick_gelu"));
        assert!(wrong(r#"{"text_config": {"layer_norm_eps": 1e-6}}"#).contains("layer_norm_eps is 0.000001"));
        assert!(
            wrong(r#"{"vision_config": {"num_attention_heads": 0}}"#).contains("no multiple of num_attention_heads 0")
        );
        assert!(wrong(r#"{"vision_config": {"hidden_size": 0}}"#).contains("vision_cfg.width is 0"));
        assert!(wrong("[").contains("not a CLIP configuration"));
    }

    #[test]
    fn the_configuration_of_another_model_is_refused_by_its_name() {
        let refused = |json: &str, word: &str| {
            let message = read_config(json).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("only CLIP's two towers"), "{message}");
        };
        for other in
            ["metaclip_2", "siglip", "siglip2", "chinese_clip", "altclip", "align", "blip", "clipseg", "SigLIP"]
        {
            refused(&format!(r#"{{"model_type": "{other}"}}"#), &format!("model_type is '{other}'"));
        }
        refused(r#"{"architectures": ["SiglipModel"]}"#, "architectures names 'SiglipModel'");
        refused(r#"{"text_config": {"model_type": "xlm-roberta"}}"#, "text_config: model_type is 'xlm-roberta'");
        refused(r#"{"vision_config": {"model_type": "siglip_vision_model"}}"#, "vision_config: model_type");
        refused(r#"{"vision_config": {"num_channels": 1}}"#, "num_channels is 1");
        refused(r#"{"text_config": {"eos_token_id": 102}}"#, "eos_token_id is 102, and CLIP's tokenizer has 49407");
        refused(r#"{"text_config": {"bos_token_id": 101}}"#, "bos_token_id is 101, and CLIP's tokenizer has 49406");
        refused(r#"{"text_config": {"vocab_size": 49410, "eos_token_id": 49409}}"#, "eos_token_id is 49409");
        refused(r#"{"quantization_config": {"bits": 4}}"#, "quantised");
        for known in [
            r#"{"model_type": "clip", "architectures": ["CLIPModel"], "text_config": {"eos_token_id": 2, "bos_token_id": 0}}"#,
            r#"{"text_config": {"model_type": "clip_text_model", "eos_token_id": 49407, "bos_token_id": 49406}}"#,
            r#"{"text_config": {"vocab_size": 49410, "eos_token_id": 49407}, "vision_config": {"num_channels": 3}}"#,
            r#"{"text_config": {"eos_token_id": null}, "text_config_dict": null}"#,
        ] {
            assert!(read_config(known).is_ok(), "{known}");
        }
    }

    #[test]
    fn the_end_token_is_the_tokenizers() {
        let ids = |vocab_size: usize| {
            let mut spec = ModelSpec::find("ViT-B-32").unwrap();
            spec.text_cfg.vocab_size = vocab_size;
            let text = config(&spec, 0.0)["text_config"].clone();
            (text["bos_token_id"].as_u64().unwrap(), text["eos_token_id"].as_u64().unwrap())
        };
        assert_eq!([ids(49408), ids(49410), ids(100)], [(49406, 49407), (49406, 49407), (98, 99)]);
    }

    #[test]
    fn every_width_of_the_hidden_layer_survives() {
        for width in 1..400 {
            for hidden in 1..400 {
                assert_eq!((width as f64 * ratio(hidden, width)) as usize, hidden);
            }
        }
    }
}
