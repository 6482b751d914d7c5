use perennial::check::token_embed::TokenEmbedCase;
use perennial::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use perennial::ops::{DeviceMemory, Plan, Run};

use super::{Device, assert_all_gradients, assert_holds, device, get, put, random};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<TokenEmbedCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..7, 1usize..9, 1usize..9, 2usize..30, 0usize..4);
    assert_holds(shapes, true, |(texts, tokens, width, vocabulary, spare)| TokenEmbedCase {
        shape: TokenShape { texts, tokens, width },
        vocabulary,
        context: tokens + spare,
    });
}

#[test]
fn a_token_is_its_row_of_the_table_and_its_position() {
    // Repeats within a text and across texts; ids 4 and 9 never occur.
    const IDS: [u32; 12] = [10, 2, 2, 5, 10, 0, 7, 5, 10, 2, 3, 6];
    let shape = TokenShape { texts: 3, tokens: 4, width: 5 };
    let mut plan = Plan::new::<Device>();
    let (table, position) = (plan.tensor(11 * 5), plan.tensor(6 * 5));
    let (dtable, dposition) = (plan.stats(11 * 5), plan.stats(6 * 5));
    let ([x, dx], ids) = ([(); 2].map(|()| plan.tensor(60)), plan.ids(12));
    let mut device = device(&plan);
    let (rows, positions) = (random("table", 11 * 5), random("position", 6 * 5));
    put(&mut device, table, &rows);
    put(&mut device, position, &positions);
    put(&mut device, dx, &random("dx", 60));
    device.write(ids, &IDS);
    device.run(TokenEmbed { shape, ids, table, position, x });
    device.run(TokenEmbedBackward { shape, ids, dx, dtable, dposition });
    for (place, token) in get(&device, x).chunks(5).enumerate() {
        let (row, position) = (&rows[IDS[place] as usize * 5..], &positions[place % 4 * 5..]);
        assert!(token.iter().zip(row).zip(position).all(|((x, row), position)| *x == row + position));
    }
    for id in [4, 9] {
        assert!(get(&device, dtable)[id * 5..][..5].iter().all(|g| *g == 0.0), "an absent id has gradient 0");
    }
    assert!(get(&device, dposition)[4 * 5..].iter().all(|g| *g == 0.0), "an unused position has gradient 0");
}
