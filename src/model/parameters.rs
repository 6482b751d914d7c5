//! Every parameter of a CLIP in open_clip's names and order, as views of one flat arena.

use std::ops::Range;

use super::spec::{ModelSpec, TransformerSpec};
use super::trainable::Trainable;
use crate::rng::{normal, rng};

/// One named tensor and where it lies in the arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// As open_clip's state_dict has it: `visual.transformer.resblocks.0.ln_1.weight`.
    pub name: String,
    /// Row-major extents as PyTorch has them; empty for a single number.
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// How it starts when a model is trained from scratch.
    initial: Initial,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Initial {
    Value(f64),
    Normal { std: f64 },
    Uniform { bound: f64 },
}

impl Parameter {
    /// Numbers in it.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none: an extent is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it lies in the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Whether weight decay applies: to matrices and embeddings, not to gains, biases and the logit scale (open_clip's rule).
    pub(crate) fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// Starts of parameters are multiples of this many elements, so that every view is aligned as a plan's spans are.
const ALIGNMENT: usize = 64;

/// Parameters that a method adds to a CLIP: classifiers' heads, predictors.
#[derive(Clone, Debug, PartialEq)]
pub enum Extra {
    /// `NAME.weight` `[outputs, inputs]`, and `NAME.bias` `[outputs]` where there is one; they start as PyTorch's `nn.Linear` does.
    Linear {
        /// NAME, as checkpoints have it: none of CLIP's own begins so.
        name: String,
        /// Columns of the weight.
        inputs: usize,
        /// Rows of the weight.
        outputs: usize,
        /// Whether there is one.
        bias: bool,
    },
    /// `NAME.weight` and `NAME.bias` `[width]`.
    Norm {
        /// NAME, likewise.
        name: String,
        /// Values of a row that it normalises.
        width: usize,
    },
}

/// The parameters of a model, in open_clip's order; a method's own follow those of the image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterList {
    parameters: Vec<Parameter>,
    arena: usize,
    /// Where the image tower's and a method's own lie, one after the other.
    vision: Range<usize>,
    extras: Range<usize>,
    /// What can be trained: all, unless [`ParameterList::train_only`] says otherwise.
    trainable: Trainable,
}

impl ParameterList {
    /// The parameters of open_clip's CLIP (docs/interop.md): 302 tensors for ViT-B-16.
    pub fn of(spec: &ModelSpec) -> ParameterList {
        ParameterList::with_extras(spec, &[])
    }

    /// The same with a method's own.
    pub(crate) fn with_extras(spec: &ModelSpec, extras: &[Extra]) -> ParameterList {
        let mut list = ParameterList {
            parameters: Vec::new(),
            arena: 0,
            vision: 0..0,
            extras: 0..0,
            trainable: Trainable::default(),
        };
        let (vision, text) = (spec.vision(), spec.text());
        let patch = spec.vision_cfg.patch_size;
        let scale = (vision.width as f64).powf(-0.5);
        // open_clip's starting values. PyTorch's convolution starts uniformly in +-1 / sqrt(fan in).
        let fan_in = (3 * patch * patch) as f64;
        list.add("positional_embedding", &[spec.text_cfg.context_length, text.width], Initial::Normal { std: 0.01 });
        list.add(
            "text_projection",
            &[text.width, spec.embed_dim],
            Initial::Normal { std: (text.width as f64).powf(-0.5) },
        );
        list.add("logit_scale", &[], Initial::Value((1.0f64 / 0.07).ln()));
        let vision_start = list.arena;
        list.add("visual.class_embedding", &[vision.width], Initial::Normal { std: scale });
        list.add("visual.positional_embedding", &[spec.patches() + 1, vision.width], Initial::Normal { std: scale });
        list.add("visual.proj", &[vision.width, spec.embed_dim], Initial::Normal { std: scale });
        list.add(
            "visual.conv1.weight",
            &[vision.width, 3, patch, patch],
            Initial::Uniform { bound: fan_in.powf(-0.5) },
        );
        list.add_norm("visual.ln_pre", vision.width);
        list.add_blocks("visual.transformer.resblocks", &vision);
        list.add_norm("visual.ln_post", vision.width);
        list.vision = vision_start..list.arena;
        for extra in extras {
            match extra {
                Extra::Linear { name, inputs, outputs, bias } => {
                    let initial = Initial::Uniform { bound: (*inputs as f64).powf(-0.5) };
                    list.add(&format!("{name}.weight"), &[*outputs, *inputs], initial);
                    if *bias {
                        list.add(&format!("{name}.bias"), &[*outputs], initial);
                    }
                }
                Extra::Norm { name, width } => list.add_norm(name, *width),
            }
        }
        list.extras = list.vision.end..list.arena;
        list.add_blocks("transformer.resblocks", &text);
        list.add("token_embedding.weight", &[spec.text_cfg.vocab_size, text.width], Initial::Normal { std: 0.02 });
        list.add_norm("ln_final", text.width);
        list.trainable = Trainable::stretch(0..list.arena);
        list
    }

    /// Leaves all else as it is: it has no gradients and no moments.
    pub(crate) fn train_only(&mut self, trainable: Trainable) {
        self.trainable = trainable;
    }

    /// What has gradients.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// The whole arena.
    pub(crate) fn all(&self) -> Trainable {
        Trainable::stretch(0..self.arena)
    }

    /// The image tower and a method's own.
    pub fn images(&self) -> Trainable {
        Trainable::stretch(self.vision.start..self.extras.end)
    }

    fn add(&mut self, name: &str, shape: &[usize], initial: Initial) {
        let parameter = Parameter { name: name.to_string(), shape: shape.to_vec(), offset: self.arena, initial };
        self.arena += parameter.len().next_multiple_of(ALIGNMENT);
        self.parameters.push(parameter);
    }

    fn add_norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width], Initial::Value(1.0));
        self.add(&format!("{name}.bias"), &[width], Initial::Value(0.0));
    }

    fn add_blocks(&mut self, prefix: &str, spec: &TransformerSpec) {
        // CLIP's scaled normal start: residual branches shrink with depth.
        let width = spec.width;
        let attention = (width as f64).powf(-0.5);
        let residual = attention * (2.0 * spec.layers as f64).powf(-0.5);
        let hidden = (2.0 * width as f64).powf(-0.5);
        for layer in 0..spec.layers {
            let name = |part: &str| format!("{prefix}.{layer}.{part}");
            self.add_norm(&name("ln_1"), width);
            self.add(&name("attn.in_proj_weight"), &[3 * width, width], Initial::Normal { std: attention });
            self.add(&name("attn.in_proj_bias"), &[3 * width], Initial::Value(0.0));
            self.add(&name("attn.out_proj.weight"), &[width, width], Initial::Normal { std: residual });
            self.add(&name("attn.out_proj.bias"), &[width], Initial::Value(0.0));
            self.add_norm(&name("ln_2"), width);
            self.add(&name("mlp.c_fc.weight"), &[spec.hidden, width], Initial::Normal { std: hidden });
            self.add(&name("mlp.c_fc.bias"), &[spec.hidden], Initial::Value(0.0));
            self.add(&name("mlp.c_proj.weight"), &[width, spec.hidden], Initial::Normal { std: residual });
            self.add(&name("mlp.c_proj.bias"), &[width], Initial::Value(0.0));
        }
    }

    /// In the arena's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.parameters.iter()
    }

    /// How many parameters there are; see [`ParameterList::arena_len`] for their numbers.
    pub fn len(&self) -> usize {
        self.parameters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// Numbers in all parameters together.
    pub(crate) fn count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// Elements of the arena: the count and the gaps between parameters, which stay 0.
    pub fn arena_len(&self) -> usize {
        self.arena
    }

    /// The parameter of that name. Panics on a name that no CLIP has: a bug of the caller.
    pub fn get(&self, name: &str) -> &Parameter {
        self.find(name).unwrap_or_else(|| panic!("no parameter is called {name}"))
    }

    /// The parameter of that name, if the model or its method has one.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Where the image tower's parameters lie in the arena.
    pub fn vision(&self) -> Range<usize> {
        self.vision.clone()
    }

    /// Where a method's own lie: right after the image tower's.
    pub fn extras(&self) -> Range<usize> {
        self.extras.clone()
    }

    /// Copies the parameters that both lists have, from an arena of this list into one of `other`.
    pub(crate) fn transfer(&self, values: &[f32], other: &ParameterList, to: &mut [f32]) {
        for parameter in &self.parameters {
            if let Some(place) = other.find(&parameter.name) {
                to[place.range()].copy_from_slice(&values[parameter.range()]);
            }
        }
    }

    /// The arena's stretches under weight decay, neighbours joined.
    pub(crate) fn decayed(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for parameter in self.parameters.iter().filter(|parameter| parameter.decays()) {
            let range = parameter.offset..(parameter.offset + parameter.len().next_multiple_of(ALIGNMENT));
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Starting values of the whole arena for training from scratch, from the run's seed.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut arena = vec![0.0; self.arena];
        for (index, parameter) in self.parameters.iter().enumerate() {
            let mut generator = rng(seed, "initial values", &[index as u64]);
            for value in &mut arena[parameter.range()] {
                *value = match parameter.initial {
                    Initial::Value(value) => value,
                    Initial::Normal { std } => std * normal(&mut generator),
                    Initial::Uniform { bound } => bound * (2.0 * crate::rng::unit(&mut generator) - 1.0),
                } as f32;
            }
        }
        arena
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vit_b_16_has_open_clips_tensors() {
        let list = ParameterList::of(&ModelSpec::find("ViT-B-16").unwrap());
        assert_eq!(list.len(), 302);
        assert_eq!(list.count(), 149_620_737);
        assert_eq!(list.get("visual.conv1.weight").shape, [768, 3, 16, 16]);
        assert_eq!(list.get("text_projection").shape, [512, 512]);
        assert_eq!(list.get("logit_scale").shape, [0usize; 0]);
    }

    #[test]
    fn a_methods_own_lie_behind_the_image_tower_and_leave_the_rest_as_it_was() {
        let spec = ModelSpec::find("emoji-tiny").unwrap();
        let head = Extra::Linear { name: "head".to_string(), inputs: spec.embed_dim, outputs: 10, bias: true };
        let (plain, list) = (ParameterList::of(&spec), ParameterList::with_extras(&spec, &[head]));
        let (vision, extras) = (list.vision(), list.extras());
        assert_eq!((vision.end, list.get("head.weight").offset), (extras.start, extras.start));
        assert_eq!(list.count() - plain.count(), 10 * spec.embed_dim + 10);
        for parameter in list.iter() {
            assert_eq!(vision.contains(&parameter.offset), parameter.name.starts_with("visual."), "{}", parameter.name);
            assert_eq!(extras.contains(&parameter.offset), parameter.name.starts_with("head."), "{}", parameter.name);
        }
        let values: Vec<f32> = (0..plain.arena_len()).map(|i| i as f32).collect();
        let (mut there, mut back) = (vec![-1.0; list.arena_len()], vec![0.0; plain.arena_len()]);
        plain.transfer(&values, &list, &mut there);
        list.transfer(&there, &plain, &mut back);
        assert!(plain.iter().all(|parameter| back[parameter.range()] == values[parameter.range()]));
        assert!(there[extras].iter().all(|value| *value == -1.0));
    }

    #[test]
    fn decay_covers_matrices_and_nothing_else() {
        let list = ParameterList::of(&ModelSpec::find("emoji-tiny").unwrap());
        let ranges = list.decayed();
        for parameter in list.iter() {
            let inside = ranges.iter().any(|range| range.contains(&parameter.offset));
            assert_eq!(inside, parameter.shape.len() >= 2, "{}", parameter.name);
        }
    }
}
