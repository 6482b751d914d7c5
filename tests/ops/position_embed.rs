use perennial::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};
use perennial::ops::{Plan, Run};

use super::{Device, check_gradients, device, dot, get, put, random};

/// x, and the gradients of dot(x, dx) by [patches, class, position].
fn run(shape: PositionShape, inputs: &[Vec<f64>], dx_values: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let PositionShape { images, patches: count, width } = shape;
    let tokens = count + 1;
    let mut plan = Plan::new::<Device>();
    let [patches, dpatches] = [(); 2].map(|()| plan.tensor(images * count * width));
    let [x, dx] = [(); 2].map(|()| plan.tensor(images * tokens * width));
    let (class, position) = (plan.tensor(width), plan.tensor(tokens * width));
    let (dclass, dposition) = (plan.stats(width), plan.stats(tokens * width));
    let mut device = device(&plan);
    for (span, values) in [patches, class, position].into_iter().zip(inputs) {
        put(&mut device, span, values);
    }
    put(&mut device, dx, dx_values);
    device.run(PositionEmbed { shape, patches, class, position, x });
    device.run(PositionEmbedBackward { shape, dx, dpatches, dclass, dposition });
    (get(&device, x), vec![get(&device, dpatches), get(&device, dclass), get(&device, dposition)])
}

#[test]
fn gradients_match_finite_differences() {
    let shape = PositionShape { images: 3, patches: 6, width: 5 };
    let inputs = vec![random("patches", 90), random("class", 5), random("position", 35)];
    let dx = random("dx", 3 * 7 * 5);
    let (x, gradients) = run(shape, &inputs, &dx);
    assert_eq!(x[0], inputs[1][0] + inputs[2][0], "the class token comes first");
    assert_eq!(x[5], inputs[0][0] + inputs[2][5], "then the first patch");
    check_gradients(&inputs, &gradients, |inputs| dot(&run(shape, inputs, &dx).0, &dx));
}
