use perennial::ops::pool::{Pool, PoolBackward, PoolShape};
use perennial::ops::{Memory, Plan, Run};

use super::{Device, check_gradients, device, dot, get, put, random};

const SHAPE: PoolShape = PoolShape { samples: 3, tokens: 7, width: 5 };

/// y, and the gradient of dot(y, dy) by x.
fn run(position: Option<[u32; 3]>, x_values: &[f64], dy_values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut plan = Plan::new::<Device>();
    let [x, dx] = [(); 2].map(|()| plan.tensor(3 * 7 * 5));
    let [y, dy] = [(); 2].map(|()| plan.tensor(15));
    let ids = plan.ids(3);
    let mut device = device(&plan);
    put(&mut device, x, x_values);
    put(&mut device, dy, dy_values);
    let position = position.map(|position| {
        device.write(ids, &position);
        ids
    });
    device.run(Pool { shape: SHAPE, position, x, y });
    device.run(PoolBackward { shape: SHAPE, position, dy, dx });
    (get(&device, y), get(&device, dx))
}

#[test]
fn gradients_match_finite_differences() {
    for position in [None, Some([6, 0, 3])] {
        let (x, dy) = (random("x", 3 * 7 * 5), random("dy", 15));
        let (y, gradient) = run(position, &x, &dy);
        let token = position.map_or(0, |position| position[0] as usize);
        assert_eq!(y[..5], x[token * 5..token * 5 + 5]);
        check_gradients(&[x], &[gradient], |inputs| dot(&run(position, &inputs[0], &dy).0, &dy));
    }
}
