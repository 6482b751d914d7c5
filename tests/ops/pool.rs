use perennial::check::pool::PoolCase;
use perennial::ops::pool::{Pool, PoolShape};
use perennial::ops::{DeviceMemory, Plan, Run};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_holds, device, get, put, random};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<PoolCase>();
}

#[test]
fn drawn_shapes_hold() {
    assert_holds((1usize..7, 1usize..9, 1usize..9, any::<bool>()), true, |(samples, tokens, width, positions)| {
        PoolCase { shape: PoolShape { samples, tokens, width }, positions }
    });
}

#[test]
fn a_sample_gives_the_token_at_its_position_or_its_first() {
    let shape = PoolShape { samples: 3, tokens: 7, width: 5 };
    let mut plan = Plan::new::<Device>();
    let (x, y, ids) = (plan.tensor(3 * 7 * 5), plan.tensor(3 * 5), plan.ids(3));
    let (mut device, values) = (device(&plan), random("x", 3 * 7 * 5));
    put(&mut device, x, &values);
    for (position, tokens) in [(None, [0, 0, 0]), (Some(ids), [6, 0, 3])] {
        device.write(ids, &tokens);
        device.run(Pool { shape, position, x, y });
        let expected = tokens.iter().enumerate().flat_map(|(b, token)| &values[(b * 7 + *token as usize) * 5..][..5]);
        assert!(get(&device, y).iter().eq(expected));
    }
}
