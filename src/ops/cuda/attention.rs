use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::attention::{Attention, AttentionShape};
use crate::ops::{Stats, Tensor};

impl<R: Driver> Attention for Cuda<R> {
    fn attention(&mut self, _shape: AttentionShape, _qkv: Tensor, _out: Tensor, _log_sum_exp: Stats) {
        self.fail(Error::run("attention: no kernel is launched yet"));
    }

    fn attention_backward(
        &mut self,
        _shape: AttentionShape,
        _qkv: Tensor,
        _out: Tensor,
        _log_sum_exp: Stats,
        _dout: Tensor,
        _dqkv: Tensor,
    ) {
        self.fail(Error::run("attention: no kernel is launched yet"));
    }
}
