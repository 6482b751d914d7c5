use perennial::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use perennial::ops::{Memory, Plan, Run};

use super::{Device, check_gradients, device, dot, get, put, random};

const VOCABULARY: usize = 11;
const CONTEXT: usize = 6;
/// Repeats within a text and across texts; ids 4 and 9 never occur.
const IDS: [u32; 12] = [10, 2, 2, 5, 10, 0, 7, 5, 10, 2, 3, 6];

/// x, and the gradients of dot(x, dx) by [table, position].
fn run(inputs: &[Vec<f64>], dx_values: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let shape = TokenShape { texts: 3, tokens: 4, width: 5 };
    let mut plan = Plan::new::<Device>();
    let (table, position) = (plan.tensor(VOCABULARY * 5), plan.tensor(CONTEXT * 5));
    let (dtable, dposition) = (plan.stats(VOCABULARY * 5), plan.stats(CONTEXT * 5));
    let [x, dx] = [(); 2].map(|()| plan.tensor(60));
    let ids = plan.ids(12);
    let mut device = device(&plan);
    put(&mut device, table, &inputs[0]);
    put(&mut device, position, &inputs[1]);
    put(&mut device, dx, dx_values);
    device.write(ids, &IDS);
    device.run(TokenEmbed { shape, ids, table, position, x });
    device.run(TokenEmbedBackward { shape, ids, dx, dtable, dposition });
    (get(&device, x), vec![get(&device, dtable), get(&device, dposition)])
}

#[test]
fn gradients_match_finite_differences() {
    let inputs = vec![random("table", VOCABULARY * 5), random("position", CONTEXT * 5)];
    let dx = random("dx", 60);
    let (x, gradients) = run(&inputs, &dx);
    assert_eq!(x[5], inputs[0][2 * 5] + inputs[1][5]);
    assert!(gradients[0][4 * 5..5 * 5].iter().all(|g| *g == 0.0), "an absent id has gradient 0");
    assert!(gradients[1][4 * 5..].iter().all(|g| *g == 0.0), "an unused position has gradient 0");
    check_gradients(&inputs, &gradients, |inputs| dot(&run(inputs, &dx).0, &dx));
}
