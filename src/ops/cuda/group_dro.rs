use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::group_dro::{GroupDro, GroupDroSettings, GroupDroState};
use crate::ops::{Ids, Stats};

impl<R: Driver> GroupDro for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn group_dro(
        &mut self,
        _samples: usize,
        _settings: GroupDroSettings,
        _class: Ids,
        _log_u: [Stats; 2],
        _log_scale: Stats,
        _state: GroupDroState,
        _weight: Stats,
        _objective: Stats,
    ) {
        self.fail(Error::run("group_dro: no kernel is launched yet"));
    }
}
