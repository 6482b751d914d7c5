//! How weights are named and laid out in files: open_clip's way, which is ours, and Hugging Face's `CLIPModel`.

use std::borrow::Cow;

use super::container::printable;
use crate::model::parameters::{Parameter, ParameterList};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    OpenClip,
    HuggingFace,
}

/// A tensor of a file, and the stretch of the arena that it is.
pub(crate) struct Piece {
    pub name: String,
    /// In the file.
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// Whether the arena holds the transpose of what the file holds.
    pub transposed: bool,
}

impl Piece {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns in the file of a tensor that is transposed.
    pub(crate) fn sides(&self) -> (usize, usize) {
        (self.shape[0], self.shape[1])
    }
}

/// The whole numbers beside OpenAI's weights: the edge of the pictures, the tokens of a text, the words.
pub(crate) const OPENAI_SIZES: [&str; 3] = ["input_resolution", "context_length", "vocab_size"];

/// What wrappers of PyTorch put into names, in front or between: no model's own name has such a part.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// With which part the names of a model may begin, in either layout.
const ROOTS: [&str; 11] = [
    "visual",
    "text",
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
    "logit_scale",
    "vision_model",
    "text_model",
    "visual_projection",
];

/// A tensor that every model has, in either layout: what stands in front of it is a prefix.
const ANCHORS: [&str; 2] = ["visual.class_embedding", "vision_model.embeddings.class_embedding"];

/// How the names of a file are to be read.
pub(crate) struct Naming {
    pub layout: Layout,
    /// What all names begin with, beside the wrappers' parts: `model.`, `clip.`, ...; mostly empty.
    pub prefix: String,
}

impl Naming {
    /// That of a file with these names.
    pub(crate) fn detect<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Naming {
        let names: Vec<Cow<str>> = names.map(without_wrappers).collect();
        // A counter that averaging puts beside the model, and OpenAI's sizes, are of no module.
        let own = |name: &&Cow<str>| **name != "n_averaged" && !OPENAI_SIZES.contains(&name.as_ref());
        let prefix = common_prefix(names.iter().filter(own).map(|name| name.as_ref())).to_string();
        let hugging_face = |name: &str| name.starts_with("vision_model.") || name.starts_with("text_model.");
        let plain = |name: &Cow<str>| name.strip_prefix(prefix.as_str()).is_some_and(hugging_face);
        let layout = if names.iter().any(plain) { Layout::HuggingFace } else { Layout::OpenClip };
        Naming { layout, prefix }
    }

    /// A file's name for a tensor without the prefixes that wrappers put in front.
    pub(crate) fn plain_name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let strip = |name: &str| {
            let name = name.strip_prefix(self.prefix.as_str()).unwrap_or(name);
            match self.layout {
                Layout::OpenClip => name.strip_prefix("text.").unwrap_or(name).len(),
                Layout::HuggingFace => name.len(),
            }
        };
        match without_wrappers(name) {
            Cow::Borrowed(name) => Cow::Borrowed(&name[name.len() - strip(name)..]),
            Cow::Owned(name) => Cow::Owned(name[name.len() - strip(&name)..].to_string()),
        }
    }

    /// Whether a tensor of that plain name is a constant that some versions store; it is no weight.
    pub(crate) fn ignores(&self, plain_name: &str) -> bool {
        match self.layout {
            Layout::OpenClip => plain_name == "attn_mask" || plain_name.ends_with(".attn_mask"),
            Layout::HuggingFace => plain_name.ends_with(".embeddings.position_ids"),
        }
    }
}

/// The name without the parts that wrappers put in.
pub(crate) fn without_wrappers(name: &str) -> Cow<'_, str> {
    match name.split('.').any(|part| WRAPPERS.contains(&part)) {
        false => Cow::Borrowed(name),
        true => {
            let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
            Cow::Owned(parts.join("."))
        }
    }
}

/// The whole parts, with their dots, that all names begin with, up to the first that a model's own names begin with.
fn common_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> &'a str {
    let Some(first) = names.next() else { return "" };
    let mut common = first.rfind('.').map_or("", |end| &first[..=end]);
    for name in names {
        while !name.starts_with(common) {
            common = common[..common.len() - 1].rfind('.').map_or("", |end| &common[..=end]);
        }
    }
    let mut end = 0;
    for part in common.split_inclusive('.').take_while(|part| !ROOTS.contains(&part.trim_end_matches('.'))) {
        end += part.len();
    }
    &common[..end]
}

/// What should be said of names that are not those of one model: that only some begin with a prefix, that there are several models,
/// or that they are of a kind of model that is not built here.
pub(crate) fn foreign(names: &[&str]) -> Option<String> {
    let mut prefixes: Vec<&str> = names
        .iter()
        .filter_map(|name| ANCHORS.iter().find_map(|anchor| name.strip_suffix(anchor)))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    match prefixes.as_slice() {
        [prefix] if !prefix.is_empty() => {
            let with = names.iter().filter(|name| name.starts_with(prefix)).count();
            let prefix = printable(prefix);
            return Some(match names.iter().find(|name| !name.starts_with(prefix.as_str())) {
                None => format!("all names begin with '{prefix}', which was taken off"),
                Some(other) => format!(
                    "{with} of the {} names begin with '{prefix}' and others, as '{}', do not: save the model by itself",
                    names.len(),
                    printable(other)
                ),
            });
        }
        [_, _, ..] => {
            let prefixes: Vec<String> =
                prefixes.iter().take(5).map(|prefix| format!("'{}'", printable(prefix))).collect();
            return Some(format!(
                "it holds several models, whose names begin with {}: save the one that is meant by itself",
                prefixes.join(" and ")
            ));
        }
        _ => {}
    }
    let kinds = [
        ("visual.trunk.", "its image tower is one of timm's"),
        ("visual.layer1.", "its image tower is a ResNet"),
        ("visual.stem.", "its image tower is not a plain transformer"),
        ("visual.attn_pool.", "its image tower has an attentional pooler, as CoCa's"),
        ("text_decoder.", "it is a CoCa, with a decoder of texts"),
        ("text.transformer.embeddings.", "its text tower is one of Hugging Face's, not CLIP's"),
        ("text.transformer.encoder.", "its text tower is one of Hugging Face's, not CLIP's"),
        ("text_model.encoder.layer.", "its text tower is a BERT, as that of Chinese-CLIP and ALIGN"),
        ("text_model.embeddings.word_embeddings.", "its text tower is a BERT, as that of Chinese-CLIP and ALIGN"),
        ("text_model.roberta.", "its text tower is a RoBERTa, as AltCLIP's"),
        ("text_model.head.", "it is a SigLIP"),
        ("vision_model.head.", "it is a SigLIP"),
        ("text_encoder.", "it is no CLIP, but a BLIP or one of its kind"),
        ("text_decoder", "it is no CLIP, but a BLIP or one of its kind"),
        ("qformer.", "it is a BLIP-2"),
        ("language_model.", "it is a language model that sees pictures, no CLIP"),
        ("visual_encoder.", "it is no CLIP, but a BLIP or one of its kind"),
        ("logit_bias", "it was trained with a bias of the similarities, as SigLIP"),
    ];
    let built = "only CLIP of two plain transformers is built here";
    let has = |beginning: &str| names.iter().any(|name| name.starts_with(beginning));
    kinds.iter().find(|(beginning, _)| has(beginning)).map(|(_, what)| format!("{what}; {built}"))
}

impl Layout {
    /// The name of the image tower's positional embedding.
    pub(crate) fn image_positions(self) -> &'static str {
        match self {
            Layout::OpenClip => "visual.positional_embedding",
            Layout::HuggingFace => "vision_model.embeddings.position_embedding.weight",
        }
    }

    /// Every tensor of a file that holds these parameters: 302 (open_clip) or 398 (Hugging Face) for ViT-B-16.
    pub(crate) fn pieces(self, list: &ParameterList) -> Vec<Piece> {
        match self {
            Layout::OpenClip => list.iter().map(whole).collect(),
            Layout::HuggingFace => list.iter().flat_map(hugging_face).collect(),
        }
    }
}

fn whole(parameter: &Parameter) -> Piece {
    Piece { name: parameter.name.clone(), shape: parameter.shape.clone(), offset: parameter.offset, transposed: false }
}

/// What Hugging Face calls the parts outside the blocks. The misspelling is theirs.
const HUGGING_FACE: [(&str, &str); 13] = [
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ("text_projection", "text_projection.weight"),
];

/// The one or three tensors that a parameter is in Hugging Face's layout.
fn hugging_face(parameter: &Parameter) -> Vec<Piece> {
    let mut piece = whole(parameter);
    let Some((tower, layer, part)) = block_part(&parameter.name) else {
        if let Some((_, theirs)) = HUGGING_FACE.iter().find(|(ours, _)| *ours == parameter.name) {
            piece.name = theirs.to_string();
        }
        piece.transposed = matches!(parameter.name.as_str(), "visual.proj" | "text_projection");
        if piece.transposed {
            piece.shape.reverse();
        }
        return vec![piece];
    };
    let block = format!("{tower}.encoder.layers.{layer}");
    if let Some(kind) = part.strip_prefix("attn.in_proj_") {
        // The rows of the queries, the keys and the values, one below the other.
        let mut shape = parameter.shape.clone();
        shape[0] /= 3;
        let third = parameter.len() / 3;
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{block}.self_attn.{name}.{kind}"));
        let offsets = (0..3).map(|index| parameter.offset + index * third);
        return names
            .into_iter()
            .zip(offsets)
            .map(|(name, offset)| Piece { name, shape: shape.clone(), offset, transposed: false })
            .collect();
    }
    let theirs = part
        .replace("ln_", "layer_norm")
        .replace("attn.out_proj", "self_attn.out_proj")
        .replace("mlp.c_fc", "mlp.fc1")
        .replace("mlp.c_proj", "mlp.fc2");
    piece.name = format!("{block}.{theirs}");
    vec![piece]
}

/// Tower in Hugging Face's name, number of the layer, and part of a parameter of a block.
fn block_part(name: &str) -> Option<(&'static str, &str, &str)> {
    let (tower, rest) = if let Some(rest) = name.strip_prefix("visual.transformer.resblocks.") {
        ("vision_model", rest)
    } else {
        ("text_model", name.strip_prefix("transformer.resblocks.")?)
    };
    let (layer, part) = rest.split_once('.')?;
    Some((tower, layer, part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::ModelSpec;

    #[test]
    fn vit_b_16_has_398_tensors_in_hugging_faces_layout() {
        let list = ParameterList::of(&ModelSpec::find("ViT-B-16").unwrap());
        let pieces = Layout::HuggingFace.pieces(&list);
        assert_eq!(pieces.len(), 398);
        assert_eq!(pieces.iter().map(Piece::len).sum::<usize>(), list.count());
        let shape = |name: &str| pieces.iter().find(|piece| piece.name == name).map(|piece| piece.shape.clone());
        assert_eq!(shape("visual_projection.weight"), Some(vec![512, 768]));
        assert_eq!(shape("vision_model.pre_layrnorm.bias"), Some(vec![768]));
        assert_eq!(shape("text_model.encoder.layers.11.self_attn.k_proj.weight"), Some(vec![512, 512]));
        assert_eq!(shape("vision_model.encoder.layers.0.mlp.fc2.weight"), Some(vec![768, 3072]));
        assert_eq!(shape("vision_model.encoder.layers.3.layer_norm2.weight"), Some(vec![768]));
        assert_eq!(shape("logit_scale"), Some(vec![]));
    }

    #[test]
    fn both_layouts_cover_every_parameter_once() {
        let list = ParameterList::of(&ModelSpec::find("emoji-tiny").unwrap());
        for layout in [Layout::OpenClip, Layout::HuggingFace] {
            let mut covered = vec![0u8; list.arena_len()];
            for piece in layout.pieces(&list) {
                covered[piece.offset..][..piece.len()].iter_mut().for_each(|times| *times += 1);
            }
            for parameter in list.iter() {
                assert!(covered[parameter.range()].iter().all(|times| *times == 1), "{layout:?} {}", parameter.name);
            }
            assert_eq!(covered.iter().map(|times| *times as usize).sum::<usize>(), list.count());
        }
    }
}
