use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::position_embed::{PositionEmbed, PositionShape};
use crate::ops::{Stats, Tensor};

impl<R: Driver> PositionEmbed for Cuda<R> {
    fn position_embed(
        &mut self,
        _shape: PositionShape,
        _patches: Tensor,
        _class: Tensor,
        _position: Tensor,
        _x: Tensor,
    ) {
        self.fail(Error::run("position_embed: no kernel is launched yet"));
    }

    fn position_embed_backward(
        &mut self,
        _shape: PositionShape,
        _dx: Tensor,
        _dpatches: Tensor,
        _dclass: Stats,
        _dposition: Stats,
    ) {
        self.fail(Error::run("position_embed: no kernel is launched yet"));
    }
}
