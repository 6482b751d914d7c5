use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::token_embed::{TokenEmbed, TokenShape};
use crate::ops::{Ids, Stats, Tensor};

impl<R: Driver> TokenEmbed for Cuda<R> {
    fn token_embed(&mut self, _shape: TokenShape, _ids: Ids, _table: Tensor, _position: Tensor, _x: Tensor) {
        self.fail(Error::run("token_embed: no kernel is launched yet"));
    }

    fn token_embed_backward(&mut self, _shape: TokenShape, _ids: Ids, _dx: Tensor, _dtable: Stats, _dposition: Stats) {
        self.fail(Error::run("token_embed: no kernel is launched yet"));
    }
}
