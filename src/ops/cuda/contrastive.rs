use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::contrastive::{
    Contrastive, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape, MovingAverages,
};
use crate::ops::{Stats, Tensor};

impl<R: Driver> Contrastive for Cuda<R> {
    fn contrastive(
        &mut self,
        _shape: ContrastiveShape,
        _settings: ContrastiveSettings,
        _inputs: ContrastiveInputs,
        _averages: Option<MovingAverages>,
        _saved: ContrastiveSaved,
    ) {
        self.fail(Error::run("contrastive: no kernel is launched yet"));
    }

    #[allow(clippy::too_many_arguments)]
    fn contrastive_backward(
        &mut self,
        _shape: ContrastiveShape,
        _settings: ContrastiveSettings,
        _inputs: ContrastiveInputs,
        _saved: ContrastiveSaved,
        _weight: Stats,
        _dimage: Tensor,
        _dtext: Tensor,
        _loss: Stats,
        _dlog_scale: Stats,
    ) {
        self.fail(Error::run("contrastive: no kernel is launched yet"));
    }
}
