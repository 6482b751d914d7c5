//! The rectifier, for projectors and predictors.

use super::Tensor;

pub trait Relu {
    /// y = max(x, 0), element by element; NaN stays NaN. x, y of one length.
    fn relu(&mut self, x: Tensor, y: Tensor);

    /// dx = dy where y > 0, else 0; y is the forward pass's output.
    fn relu_backward(&mut self, dy: Tensor, y: Tensor, dx: Tensor);
}
