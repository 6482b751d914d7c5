//! What a trainer is planned for.

use super::objective::Recipe;
use super::optimizer::OptimizerSettings;
use crate::model::clip::Capacity;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;

/// What a trainer is planned for, beside what its method asks for.
#[derive(Clone, Debug)]
pub struct TrainerSpec {
    /// Sizes of the CLIP.
    pub model: ModelSpec,
    /// Images of a batch, every view counted, and distinct texts.
    pub capacity: Capacity,
    /// AdamW's settings but the learning rate.
    pub optimizer: OptimizerSettings,
    /// Whether the logit scale is trained; a pretrained model's is usually left alone.
    pub learn_logit_scale: bool,
    /// Samples in the data set, for the moving averages.
    pub samples: usize,
    /// Classes in the data set, of all steps.
    pub classes: usize,
    /// There are class prompts among the texts.
    pub by_class: bool,
    /// Steps of the run: some methods keep an extractor of each.
    pub steps: usize,
}

impl TrainerSpec {
    /// The model's parameters and the method's own, with gradients for what its stages train.
    pub(crate) fn parameters(&self, recipe: &dyn Recipe) -> ParameterList {
        let mut list = ParameterList::with_extras(&self.model, &recipe.extras(self));
        let trainable = recipe.trainable(&list);
        list.train_only(trainable);
        list
    }
}
