//! How weights are named and laid out in files: open_clip's way, which is ours, and Hugging Face's `CLIPModel`.

use crate::model::parameters::{Parameter, ParameterList};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    OpenClip,
    HuggingFace,
}

/// A tensor of a file, and the stretch of the arena that it is.
pub struct Piece {
    pub name: String,
    /// In the file.
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// Whether the arena holds the transpose of what the file holds.
    pub transposed: bool,
}

impl Piece {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns in the file of a tensor that is transposed.
    pub fn sides(&self) -> (usize, usize) {
        (self.shape[0], self.shape[1])
    }
}

impl Layout {
    /// The layout of a file with these tensor names.
    pub fn detect<'a>(mut names: impl Iterator<Item = &'a str>) -> Layout {
        let hugging_face = |name: &str| name.starts_with("vision_model.") || name.starts_with("text_model.");
        if names.any(|name| hugging_face(without_module(name))) { Layout::HuggingFace } else { Layout::OpenClip }
    }

    /// The name of the image tower's positional embedding.
    pub fn image_positions(self) -> &'static str {
        match self {
            Layout::OpenClip => "visual.positional_embedding",
            Layout::HuggingFace => "vision_model.embeddings.position_embedding.weight",
        }
    }

    /// A file's name for a tensor without the prefixes that wrappers put in front.
    pub fn plain_name(self, name: &str) -> &str {
        let name = without_module(name);
        match self {
            Layout::OpenClip => name.strip_prefix("text.").unwrap_or(name),
            Layout::HuggingFace => name,
        }
    }

    /// Whether a tensor of that plain name is a constant that some versions store, and that nobody needs.
    pub fn ignores(self, plain_name: &str) -> bool {
        match self {
            Layout::OpenClip => plain_name == "attn_mask",
            Layout::HuggingFace => plain_name.ends_with(".embeddings.position_ids"),
        }
    }

    /// Every tensor of a file that holds these parameters: 302 (open_clip) or 398 (Hugging Face) for ViT-B-16.
    pub fn pieces(self, list: &ParameterList) -> Vec<Piece> {
        match self {
            Layout::OpenClip => list.iter().map(whole).collect(),
            Layout::HuggingFace => list.iter().flat_map(hugging_face).collect(),
        }
    }
}

fn without_module(name: &str) -> &str {
    name.strip_prefix("module.").unwrap_or(name)
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
