//! What a trainer is planned for, and what follows from it.

use super::optimizer::OptimizerSettings;
use crate::model::clip::Capacity;
use crate::model::frozen::Part;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::objective::{
    ClassLoss, ObjectiveKind, ObjectiveSettings, TextLoss, ViewLoss, head_parameters, predictor_parameters,
};

/// What a trainer is planned for.
#[derive(Clone, Debug)]
pub struct TrainerSpec {
    pub model: ModelSpec,
    /// Images of a batch, every view counted, and distinct texts.
    pub capacity: Capacity,
    pub objective: ObjectiveKind,
    pub objective_settings: ObjectiveSettings,
    pub optimizer: OptimizerSettings,
    /// Whether the logit scale is trained; a pretrained model's is usually left alone.
    pub learn_logit_scale: bool,
    /// Samples in the data set, for the moving averages.
    pub samples: usize,
    pub classes: usize,
    /// There are class prompts among the texts.
    pub by_class: bool,
    /// Steps of the run: der keeps an extractor of each.
    pub steps: usize,
    /// Whether the parameters that a step starts from are kept beside those in training.
    pub keeps_start: bool,
}

impl TrainerSpec {
    /// How many frozen models the objective needs, and how much of them.
    pub fn frozen(&self) -> (usize, Part) {
        match self.objective {
            ObjectiveKind::Texts(TextLoss::Lwf) => (1, Part::Whole),
            ObjectiveKind::Texts(_) => (0, Part::Whole),
            ObjectiveKind::Classes(ClassLoss::CrossEntropy | ClassLoss::Ewc) => (0, Part::Vision),
            ObjectiveKind::Classes(ClassLoss::Icarl) | ObjectiveKind::Views(_) => (1, Part::Vision),
            ObjectiveKind::Classes(ClassLoss::Der) => (self.steps - 1, Part::Vision),
            // The old model and the boosted one.
            ObjectiveKind::Classes(ClassLoss::Foster) => (2, Part::Vision),
        }
    }

    /// The model's parameters and the objective's own.
    pub fn parameters(&self) -> ParameterList {
        let width = self.model.embed_dim;
        let head = |blocks: usize, auxiliary: bool| head_parameters(self.classes, width, blocks, auxiliary);
        let extras = match self.objective {
            ObjectiveKind::Texts(_) => Vec::new(),
            ObjectiveKind::Classes(ClassLoss::Der) => head(self.steps - 1, true),
            ObjectiveKind::Classes(ClassLoss::Foster) => head(1, true),
            ObjectiveKind::Classes(_) | ObjectiveKind::Views(ViewLoss::Co2l) => head(0, false),
            ObjectiveKind::Views(ViewLoss::Cassle) => {
                let mut extras = predictor_parameters(width, self.objective_settings.cassle.hidden);
                extras.extend(head(0, false));
                extras
            }
        };
        ParameterList::with_extras(&self.model, &extras)
    }
}
