//! What a GPU must get right before it is used: the instructions that the kernels are made of, and the products of each kernel
//! of wgmma, which must be those of mma to the last bit. Once for each GPU, driver and program.

use std::path::Path;

use super::{Outcome, conformance};
use crate::error::{Error, Result};
use crate::files::{cache_folder, write_atomically};
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Identity;
use crate::ops::cuda::family::Family;
use crate::ops::cuda::kernels::MODULES;
use crate::ops::cuda::launch::{Gpu, Target};
use crate::ops::cuda::linear::shapes_for_every_kernel;
use crate::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape,
};
use crate::ops::{DeviceMemory, Plan, Run, Stats, Tensor};
use crate::rng::{below, rng};

/// The file in the program's folder among the user's caches: a line for each GPU that was found right.
const FILE: &str = "self-test";

/// Tests a GPU that has wgmma, unless it was found right before or a family of kernels was asked for. Where wgmma is found
/// wrong the GPU uses mma, and this says what was wrong. Fails where other instructions are wrong, which all kernels have.
pub fn self_test(gpu: Gpu) -> Result<Option<String>> {
    let Identity { name, target, .. } = Identity::of(gpu)?;
    if target != Target::Sm90a || Family::chosen()?.is_some() {
        return Ok(None);
    }
    let line = format!("{gpu:?}: {name}, kernels {:08x}", fingerprint());
    let file = cache_folder().map(|folder| folder.join(FILE));
    if file.as_ref().is_some_and(|file| knows(file, &line)) {
        return Ok(None);
    }
    match examine(gpu)? {
        None => {
            // Where nothing can be kept it is tested each time.
            file.map(|file| remember(&file, &line));
            Ok(None)
        }
        Some(wrong) => {
            Family::distrust_wgmma(gpu);
            Ok(Some(wrong))
        }
    }
}

/// What is wrong with wgmma on a GPU that has it; None where all is right.
pub fn examine(gpu: Gpu) -> Result<Option<String>> {
    let mut failures = Vec::new();
    let mut note = |outcome: &Outcome| {
        if let Some(failure) = &outcome.failure {
            failures.push((outcome.shape.clone(), failure.clone()));
        }
    };
    conformance::check(gpu, 0, &mut note)?;
    if let Some((instruction, failure)) = failures.iter().find(|(name, _)| !conformance::is_hoppers(name)) {
        return Err(Error::run(format!(
            "this GPU computes what is not so: {instruction}: {failure}; `perennial check` tries all kernels"
        )));
    }
    if let Some((instruction, failure)) = failures.first() {
        return Ok(Some(format!("{instruction}: {failure}")));
    }
    let mut plan = Plan::new::<Cuda>();
    let shapes = shapes_for_every_kernel(Identity::of(gpu)?.multiprocessors);
    let products: Vec<Products> = shapes.into_iter().map(|shape| Products::plan(&mut plan, shape)).collect();
    let mut device = Cuda::with_plan(&gpu, &plan)?;
    for products in products {
        products.send(&mut device);
        let wgmma = products.outputs(&mut device, Family::Wgmma);
        // What failed on silicon leaves nothing in this process that could go on.
        let wgmma = wgmma.map_err(|error| error.at("the self-test of wgmma, without which --kernels mma runs"))?;
        let mma = products.outputs(&mut device, Family::Mma)?;
        let differing = wgmma.iter().zip(&mma).find(|((_, one), (_, other))| one != other);
        if let Some(((output, _), _)) = differing {
            let LinearShape { rows, inputs, outputs, layout } = products.shape;
            return Ok(Some(format!(
                "{output} of a product of {rows} rows, {inputs} inputs and {outputs} outputs ({layout:?}) is not that of mma"
            )));
        }
    }
    Ok(None)
}

/// All products of a shape: operands, and outputs.
struct Products {
    shape: LinearShape,
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    /// What is added to y.
    residual: Tensor,
    y: Tensor,
    /// Of y, and of x.
    pre: Tensor,
    before: Tensor,
    dx: Tensor,
    dweight: Stats,
    dbias: Stats,
}

impl Products {
    fn plan(plan: &mut Plan, shape: LinearShape) -> Products {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let [x, before, dx] = [(); 3].map(|()| plan.tensor(rows * inputs));
        let [y, pre, residual, dy] = [(); 4].map(|()| plan.tensor(rows * outputs));
        let weight = plan.tensor(inputs * outputs);
        let dweight = plan.stats(inputs * outputs);
        Products { shape, x, dy, weight, residual, y, pre, before, dx, dweight, dbias: plan.stats(outputs) }
    }

    /// Small integers, whose sums are exact in any order.
    fn send(&self, device: &mut Cuda) {
        let Products { x, dy, weight, residual, before, .. } = *self;
        for (name, span) in [("x", x), ("dy", dy), ("weight", weight), ("residual", residual), ("before", before)] {
            let mut generator = rng(0, name, &[]);
            let values: Vec<f32> = (0..span.len()).map(|_| below(&mut generator, 9) as f32 - 4.0).collect();
            device.write(span, &values);
        }
    }

    /// The bits of the outputs, by name, with all that can follow a product. They begin as NaN, so that one left unwritten shows.
    fn outputs(&self, device: &mut Cuda, family: Family) -> Result<Vec<(&'static str, Vec<u32>)>> {
        let Products { shape, x, dy, weight, residual, y, pre, before, dx, dweight, dbias } = *self;
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        let mut found = Vec::new();
        device.use_family(family);
        for (name, epilogue) in [
            ("y", Epilogue::None),
            ("y with a residual", Epilogue::Residual(residual)),
            ("gelu of y", Epilogue::Activation { kind: Activation::Gelu, pre }),
            ("quick_gelu of y", Epilogue::Activation { kind: Activation::QuickGelu, pre }),
        ] {
            [y, pre].into_iter().for_each(|span| device.fill(span, f32::NAN));
            device.run(Linear { shape, x, weight, bias: None, epilogue, y });
            found.push((name, bits(device.read_vec(y))));
            if let Epilogue::Activation { pre, .. } = epilogue {
                found.push(("y before an activation", bits(device.read_vec(pre))));
            }
        }
        for (name, epilogue) in [
            ("dx", BackwardEpilogue::None),
            ("dx by gelu", BackwardEpilogue::Activation { kind: Activation::Gelu, pre: before }),
            ("dx by quick_gelu", BackwardEpilogue::Activation { kind: Activation::QuickGelu, pre: before }),
        ] {
            device.fill(dx, f32::NAN);
            device.run(LinearBackwardData { shape, dy, weight, epilogue, dx });
            found.push((name, bits(device.read_vec(dx))));
        }
        [dweight, dbias].into_iter().for_each(|span| device.fill(span, f32::NAN));
        device.run(LinearBackwardWeight { shape, dy, x, dweight, dbias: Some(dbias) });
        found.push(("dweight", bits(device.read_vec(dweight))));
        found.push(("dbias", bits(device.read_vec(dbias))));
        device.health()?;
        Ok(found)
    }
}

/// Of the embedded kernels.
fn fingerprint() -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    MODULES.iter().for_each(|module| hasher.update(module.compressed()));
    hasher.finalize()
}

fn knows(file: &Path, line: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|known| known == line))
}

fn remember(file: &Path, line: &str) -> Result<()> {
    let known = std::fs::read_to_string(file).unwrap_or_default();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    }
    write_atomically(file, format!("{known}{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_right_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("caches/self-test");
        assert!(!knows(&file, "one"));
        remember(&file, "one").unwrap();
        remember(&file, "two").unwrap();
        assert!(knows(&file, "one") && knows(&file, "two") && !knows(&file, "tw"));
    }
}
