//! Batches of transformed images, loaded ahead of time by threads of their own.
//!
//! The batches and their order are those of the requests, whatever the number of threads and however long an image
//! takes: each random crop has its own generator (seed, step, epoch, sample), and nothing else is random.
//!
//! How it works: one lock guards a queue of open batches, as many as `prefetch`. A thread takes the next few samples of
//! the oldest batch that has some left, or opens the next request while there is room; it loads and transforms them
//! without the lock. Whoever brings a batch's last piece puts the batch together. The consumer takes the oldest batch
//! once it is whole, which makes room.
//!
//! | waits | until | woken by |
//! |---|---|---|
//! | worker, on `room` | there are samples to load, or the loader stops | the consumer, who took a batch or drops the loader |
//! | consumer, on `ready` | the oldest batch is whole, or no request is left | the worker who finished a batch or saw the last request |

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Dataset;
use super::images::transform;
use crate::error::{Error, Result};
use crate::rng::rng;

/// What one batch shall hold.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRequest {
    /// Indices into the data set's samples, in the batch's order.
    pub samples: Vec<u32>,
    /// Random crops; `None` for the transform of evaluation.
    pub augment: Option<Augment>,
}

/// Random crops, `transform::training`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augment {
    /// The run's.
    pub seed: u64,
    /// Step and epoch: with the seed and a sample's id they decide the sample's crop.
    pub place: [u64; 2],
    /// The smallest and the largest area of a crop, as a share of the image's.
    pub scale: (f64, f64),
    /// Crops of every sample, each another one.
    pub views: usize,
}

impl BatchRequest {
    fn views(&self) -> usize {
        self.augment.map_or(1, |augment| augment.views)
    }
}

/// Pixels of one request, ready for a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The request's samples, in its order, without the broken ones. Empty when all were broken.
    pub samples: Vec<u32>,
    /// [views, B, size, size, 3]: view, sample, height, width, RGB.
    pub pixels: Vec<u8>,
}

/// How a loader works: what it takes of the machine, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Loading threads; 0 loads in the calling thread, when a batch is asked for.
    pub threads: usize,
    /// Batches that are being loaded or wait to be taken, at most (at least 1): the bound of the loader's memory.
    pub prefetch: usize,
    /// Samples of the data set that may be broken before the loader gives up: the setting `data.max_broken`. All loaders of a data
    /// set count together.
    pub max_broken: usize,
}

/// An iterator over the batches of its requests, one for each. After an error it ends. Dropping it stops its threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    max_broken: usize,
}

impl Loader {
    /// A loader of `dataset`'s images at `image_size` x `image_size` pixels. Fails when the threads cannot be started.
    pub fn new(
        dataset: Arc<Dataset>,
        requests: impl Iterator<Item = BatchRequest> + Send + 'static,
        image_size: usize,
        options: LoaderOptions,
    ) -> Result<Loader> {
        let state = State {
            requests: Some(Box::new(requests)),
            open: VecDeque::new(),
            opened: 0,
            stop: false,
            spare: Vec::new(),
        };
        let shared = Arc::new(Shared {
            dataset,
            image_size,
            prefetch: options.prefetch.max(1),
            state: Mutex::new(state),
            room: Condvar::new(),
            ready: Condvar::new(),
        });
        let mut loader = Loader { shared, threads: Vec::new(), max_broken: options.max_broken };
        for number in 0..options.threads {
            let shared = Arc::clone(&loader.shared);
            let thread = std::thread::Builder::new().name(format!("loader {number}")).spawn(move || shared.work());
            let thread = thread.map_err(|cause| Error::run(format!("cannot start loader thread {number}: {cause}")))?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// Gives a batch's memory back for a later batch.
    pub(crate) fn recycle(&mut self, batch: Batch) {
        let mut state = self.shared.lock();
        if state.spare.len() < self.shared.prefetch {
            state.spare.push(batch.pixels);
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let loaded = if self.threads.is_empty() { self.shared.load_next() } else { self.shared.await_next() }?;
        let batch = loaded.and_then(|loaded| {
            self.shared.dataset.count_broken(loaded.broken, self.max_broken)?;
            Ok(loaded.batch)
        });
        if batch.is_err() {
            self.shared.stop();
        }
        Some(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A worker catches its panics; one that escapes is dropped with its thread.
            let _ = thread.join();
        }
    }
}

/// Samples that a thread loads in one go: enough that the lock is no matter, few enough that a batch keeps many threads
/// busy.
const PIECE: usize = 8;

struct Shared {
    dataset: Arc<Dataset>,
    image_size: usize,
    prefetch: usize,
    state: Mutex<State>,
    room: Condvar,
    ready: Condvar,
}

struct State {
    /// `None` after the last one, and after a panic of theirs.
    requests: Option<Box<dyn Iterator<Item = BatchRequest> + Send>>,
    /// The batches in work, oldest first.
    open: VecDeque<OpenBatch>,
    /// Batches opened since the start; the last of `open` has the number `opened - 1`.
    opened: u64,
    stop: bool,
    /// Batches' buffers to use again.
    spare: Vec<Vec<u8>>,
}

struct OpenBatch {
    request: Arc<BatchRequest>,
    /// Pieces that no thread has taken yet start here.
    next_piece: usize,
    /// In the order of the samples; `None` until loaded.
    pieces: Vec<Option<Result<Loaded>>>,
    missing: usize,
    whole: Option<Result<Loaded>>,
}

/// A piece of a batch to load.
struct Job {
    batch: u64,
    piece: usize,
    request: Arc<BatchRequest>,
}

/// A batch, or a piece of one, with its broken samples and why they are. A piece's pixels are [B, views, size, size, 3].
struct Loaded {
    batch: Batch,
    broken: Vec<(u32, Error)>,
}

impl OpenBatch {
    fn new(request: BatchRequest) -> OpenBatch {
        let count = request.samples.len().div_ceil(PIECE);
        let nothing = Loaded { batch: Batch { samples: Vec::new(), pixels: Vec::new() }, broken: Vec::new() };
        OpenBatch {
            request: Arc::new(request),
            next_piece: 0,
            pieces: (0..count).map(|_| None).collect(),
            missing: count,
            whole: (count == 0).then_some(Ok(nothing)),
        }
    }

    fn failed(error: Error) -> OpenBatch {
        let request = BatchRequest { samples: Vec::new(), augment: None };
        OpenBatch { whole: Some(Err(error)), ..OpenBatch::new(request) }
    }
}

impl State {
    /// The next piece to load, of the oldest batch that has one; opens the next request when none has and fewer than
    /// `prefetch` batches are open. `None`: nothing to do until a batch is taken, or ever.
    fn take_job(&mut self, prefetch: usize) -> Option<Job> {
        loop {
            let first = self.opened - self.open.len() as u64;
            for (batch, open) in (first..).zip(&mut self.open) {
                if open.next_piece < open.pieces.len() {
                    open.next_piece += 1;
                    return Some(Job { batch, piece: open.next_piece - 1, request: Arc::clone(&open.request) });
                }
            }
            if self.open.len() >= prefetch {
                return None;
            }
            let requests = self.requests.as_mut()?;
            match catch_unwind(AssertUnwindSafe(|| requests.next())) {
                Ok(Some(request)) => self.open.push_back(OpenBatch::new(request)),
                Ok(None) => {
                    self.requests = None;
                    return None;
                }
                Err(panic) => {
                    self.requests = None;
                    let error = Error::run(format!("choosing the next batch panicked: {}", panic_message(&*panic)));
                    self.open.push_back(OpenBatch::failed(error));
                }
            }
            self.opened += 1;
        }
    }

    /// Hands in a piece. When it was the batch's last, all its pieces come back, to be put together.
    fn hand_in(&mut self, job: &Job, piece: Result<Loaded>) -> Option<Vec<Option<Result<Loaded>>>> {
        let open = self.batch(job.batch);
        open.pieces[job.piece] = Some(piece);
        open.missing -= 1;
        (open.missing == 0).then(|| std::mem::take(&mut open.pieces))
    }

    /// An open batch by its number. It stays open as long as it is not whole.
    fn batch(&mut self, number: u64) -> &mut OpenBatch {
        let first = self.opened - self.open.len() as u64;
        &mut self.open[(number - first) as usize]
    }

    /// The oldest batch, when it is whole.
    fn take_whole(&mut self) -> Option<Result<Loaded>> {
        let whole = self.open.front_mut()?.whole.take()?;
        self.open.pop_front();
        Some(whole)
    }

    fn finished(&self) -> bool {
        self.stop || self.requests.is_none() && self.open.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock; and if it did, the state would still be whole enough to stop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let job = loop {
                if state.stop {
                    return;
                }
                let (opened, had_requests) = (state.opened, state.requests.is_some());
                let job = state.take_job(self.prefetch);
                // Empty batches are whole as soon as they are open, and the end may have come.
                if state.opened != opened || had_requests != state.requests.is_some() {
                    self.ready.notify_one();
                }
                match job {
                    Some(job) => break job,
                    None if state.requests.is_none() => {
                        // No piece is left, and none will come: the others need not wait either.
                        self.room.notify_all();
                        return;
                    }
                    None => state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            self.run(job);
        }
    }

    /// Loads a job's piece, and puts its batch together when it was the last.
    fn run(&self, job: Job) {
        let piece = self.load(&job);
        let pieces = self.lock().hand_in(&job, piece);
        if let Some(pieces) = pieces {
            let whole = self.put_together(pieces, job.request.views());
            self.lock().batch(job.batch).whole = Some(whole);
            self.ready.notify_one();
        }
    }

    /// The next batch, once the workers have it; `None` after the last.
    fn await_next(&self) -> Option<Result<Loaded>> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some(whole) = state.take_whole() {
                self.room.notify_all();
                return Some(whole);
            }
            if state.finished() {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next batch, loaded here and now; `None` after the last.
    fn load_next(&self) -> Option<Result<Loaded>> {
        loop {
            let mut state = self.lock();
            if state.stop {
                return None;
            }
            if let Some(whole) = state.take_whole() {
                return Some(whole);
            }
            // One batch at a time: the caller waits for this one.
            let job = state.take_job(1);
            if job.is_none() && state.finished() {
                return None;
            }
            drop(state);
            if let Some(job) = job {
                self.run(job);
            }
        }
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.room.notify_all();
    }

    /// Loads and transforms a piece's samples. A sample whose image has an error is broken and left out; a panic is an
    /// error of the loader.
    fn load(&self, job: &Job) -> Result<Loaded> {
        let BatchRequest { samples, augment } = &*job.request;
        let samples = &samples[job.piece * PIECE..samples.len().min((job.piece + 1) * PIECE)];
        let bytes = job.request.views() * transform::bytes(self.image_size);
        let pixels = vec![0; samples.len() * bytes];
        let mut loaded =
            Loaded { batch: Batch { samples: Vec::with_capacity(samples.len()), pixels }, broken: Vec::new() };
        for sample in samples.iter().copied() {
            let known = self.dataset.samples.len();
            if sample as usize >= known {
                return Err(Error::run(format!(
                    "a batch asks for sample {sample} of {known} in {}",
                    self.dataset.name
                )));
            }
            let Batch { samples: whole, pixels } = &mut loaded.batch;
            let out = &mut pixels[whole.len() * bytes..][..bytes];
            match catch_unwind(AssertUnwindSafe(|| self.load_sample(sample, *augment, out))) {
                Ok(Ok(())) => whole.push(sample),
                Ok(Err(error)) => loaded.broken.push((sample, error)),
                Err(panic) => {
                    return Err(Error::run(format!("loading sample {sample} panicked: {}", panic_message(&*panic))));
                }
            }
        }
        loaded.batch.pixels.truncate(loaded.batch.samples.len() * bytes);
        Ok(loaded)
    }

    /// All views of a sample, of a picture that is read once: it is whole in all of them or in none.
    fn load_sample(&self, sample: u32, augment: Option<Augment>, out: &mut [u8]) -> Result<()> {
        let (index, size) = (sample as usize, self.image_size);
        let (image, shape) = self.dataset.stored_image(index)?;
        let transformed = match augment {
            None => transform::evaluation_of(&image, shape, size, out),
            Some(Augment { seed, place: [step, epoch], scale, .. }) => {
                let id = self.dataset.samples[index].id;
                (0..).zip(out.chunks_exact_mut(transform::bytes(size))).try_for_each(|(view, out)| {
                    let place = [step, epoch, id, view];
                    let place = if view == 0 { &place[..3] } else { &place[..] };
                    transform::training_of(&image, shape, size, scale, &mut rng(seed, "crop", place), out)
                })
            }
        };
        transformed.map_err(|error| error.at(format!("sample {sample}")))
    }

    /// A batch of its pieces; the first error of one is the batch's.
    fn put_together(&self, pieces: Vec<Option<Result<Loaded>>>, views: usize) -> Result<Loaded> {
        let pieces: Vec<Loaded> = pieces.into_iter().flatten().collect::<Result<_>>()?;
        let mut pixels = self.lock().spare.pop().unwrap_or_default();
        pixels.clear();
        let mut whole = Loaded { batch: Batch { samples: Vec::new(), pixels }, broken: Vec::new() };
        whole.batch.pixels.reserve_exact(pieces.iter().map(|piece| piece.batch.pixels.len()).sum());
        let bytes = transform::bytes(self.image_size);
        for view in 0..views {
            for Loaded { batch: Batch { samples, pixels }, .. } in &pieces {
                for sample in 0..samples.len() {
                    whole.batch.pixels.extend_from_slice(&pixels[(sample * views + view) * bytes..][..bytes]);
                }
            }
        }
        for piece in pieces {
            whole.batch.samples.extend(piece.batch.samples);
            whole.broken.extend(piece.broken);
        }
        Ok(whole)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use image::RgbImage;

    use super::super::{Images, Sample, Split};
    use super::*;
    use crate::rng::below;

    const SIZE: usize = 6;

    /// Pictures made of their number, in sizes that differ; some are broken, some panic, some take their time.
    #[derive(Default)]
    struct Fake {
        broken: Vec<usize>,
        panics: Vec<usize>,
        slow: bool,
        /// Every other load fails, whatever the sample.
        flaky: bool,
        loads: Arc<AtomicUsize>,
    }

    impl Images for Fake {
        fn load(&self, sample: usize) -> Result<RgbImage> {
            let count = self.loads.fetch_add(1, Ordering::Relaxed);
            if self.slow {
                let delay = below(&mut rng(count as u64, "delay", &[sample as u64]), 3000);
                std::thread::sleep(Duration::from_micros(delay));
            }
            if self.panics.contains(&sample) {
                panic!("picture {sample} is haunted");
            }
            if self.broken.contains(&sample) || self.flaky && count % 2 == 1 {
                return Err(Error::input("torn in two"));
            }
            Ok(RgbImage::from_fn(5 + sample as u32 % 7, 8, |x, y| {
                image::Rgb([sample as u8, (x * 40) as u8 ^ sample as u8, (y * 30) as u8])
            }))
        }
    }

    fn dataset(fake: Fake) -> Arc<Dataset> {
        let sample = |id| Sample {
            id,
            caption: String::new(),
            class: crate::data::Label(0),
            domain: 0,
            time: 0,
            split: Split::Train,
        };
        let samples = (0..200).map(|index| sample(1000 + index)).collect();
        let name = || vec!["one".to_string()];
        Arc::new(Dataset::new("fake", name(), name(), samples, String::new(), Box::new(fake)))
    }

    /// Batches of many sizes, every third without random crops.
    fn requests(count: u64) -> impl Iterator<Item = BatchRequest> + Send {
        (0..count).map(|step| {
            let mut rng = rng(1, "requests", &[step]);
            let len = below(&mut rng, 30);
            BatchRequest {
                samples: (0..len).map(|_| below(&mut rng, 200) as u32).collect(),
                augment: (step % 3 != 0).then_some(Augment {
                    seed: 4,
                    place: [step, 2],
                    scale: (0.3, 1.0),
                    views: 1 + step as usize % 2,
                }),
            }
        })
    }

    /// What is known to be broken.
    fn named(dataset: &Dataset) -> Vec<String> {
        dataset.broken().iter().flat_map(|(_, kind)| kind.first.clone()).collect()
    }

    fn options(threads: usize) -> LoaderOptions {
        LoaderOptions { threads, prefetch: 3, max_broken: 0 }
    }

    fn batches(fake: Fake, options: LoaderOptions) -> Vec<Batch> {
        Loader::new(dataset(fake), requests(20), SIZE, options).unwrap().collect::<Result<_>>().unwrap()
    }

    #[test]
    fn any_number_of_threads_loads_the_same_batches() {
        let expected = batches(Fake::default(), options(0));
        let asked: Vec<Vec<u32>> = requests(20).map(|request| request.samples).collect();
        assert_eq!(expected.iter().map(|batch| batch.samples.clone()).collect::<Vec<_>>(), asked);
        for threads in [1, 3, 8] {
            for prefetch in [0, 1, 5] {
                let options = LoaderOptions { prefetch, ..options(threads) };
                assert!(batches(Fake::default(), options) == expected, "{threads} threads, {prefetch} ahead");
            }
        }
    }

    #[test]
    fn delays_do_not_change_the_order() {
        let expected = batches(Fake::default(), options(0));
        for threads in [0, 1, 3, 8] {
            assert!(batches(Fake { slow: true, ..Fake::default() }, options(threads)) == expected, "{threads} threads");
        }
    }

    #[test]
    fn batch_holds_the_transformed_pictures() {
        let dataset = dataset(Fake::default());
        let augment = Augment { seed: 9, place: [5, 6], scale: (0.2, 0.9), views: 1 };
        let request = |augment| BatchRequest { samples: vec![3, 150], augment };
        let mut loader =
            Loader::new(Arc::clone(&dataset), [request(None), request(Some(augment))].into_iter(), SIZE, options(2))
                .unwrap();
        let (plain, cropped) = (loader.next().unwrap().unwrap(), loader.next().unwrap().unwrap());
        let bytes = transform::bytes(SIZE);
        for (place, sample) in [3usize, 150].into_iter().enumerate() {
            let image = dataset.image(sample).unwrap();
            let mut out = vec![0; bytes];
            transform::evaluation(&image, SIZE, &mut out).unwrap();
            assert_eq!(plain.pixels[place * bytes..][..bytes], out);
            let id = 1000 + sample as u64;
            transform::training(&image, SIZE, (0.2, 0.9), &mut rng(9, "crop", &[5, 6, id]), &mut out).unwrap();
            assert_eq!(cropped.pixels[place * bytes..][..bytes], out);
        }
        assert!(loader.next().is_none());
    }

    #[test]
    fn broken_samples_are_left_out_and_counted_once() {
        for threads in [0, 1, 4] {
            let request = BatchRequest { samples: (0..20).collect(), augment: None };
            let requests = vec![request.clone(), BatchRequest { samples: vec![7, 7], ..request.clone() }, request];
            let fake = Fake { broken: vec![7, 13], slow: true, ..Fake::default() };
            let (dataset, options) = (dataset(fake), LoaderOptions { max_broken: 2, ..options(threads) });
            let mut loader = Loader::new(Arc::clone(&dataset), requests.into_iter(), SIZE, options).unwrap();
            let first = loader.next().unwrap().unwrap();
            let whole: Vec<u32> = (0..20).filter(|sample| ![7, 13].contains(sample)).collect();
            assert_eq!(first.samples, whole);
            assert_eq!(first.pixels.len(), 18 * transform::bytes(SIZE));
            assert_eq!(named(&dataset), ["sample 7 (id 1007): torn in two", "sample 13 (id 1013): torn in two"]);
            assert_eq!(loader.next().unwrap().unwrap(), Batch { samples: vec![], pixels: vec![] });
            assert_eq!(loader.next().unwrap().unwrap(), first);
            assert_eq!((dataset.broken().count(), dataset.broken_samples()), (2, vec![7, 13]));
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn too_many_broken_samples_are_an_error() {
        for threads in [0, 3] {
            let requests = (0..5).map(|batch| BatchRequest { samples: vec![batch, batch + 100], augment: None });
            let fake = Fake { broken: vec![100, 101, 2, 103], ..Fake::default() };
            let options = LoaderOptions { max_broken: 2, ..options(threads) };
            let mut loader = Loader::new(dataset(fake), requests, SIZE, options).unwrap();
            assert!(loader.next().unwrap().is_ok() && loader.next().unwrap().is_ok());
            let message = loader.next().unwrap().unwrap_err().to_string();
            assert_eq!(
                message,
                "3 broken samples in fake (3 unreadable), more than data.max_broken = 2 allows: sample 2 (id 1002): torn in \
                 two; sample 100 (id 1100): torn in two; sample 101 (id 1101): torn in two"
            );
            assert!(loader.next().is_none() && loader.next().is_none());
        }
    }

    #[test]
    fn a_sample_is_in_all_views_or_in_none() {
        let augment = Augment { seed: 3, place: [1, 2], scale: (0.3, 1.0), views: 2 };
        let request = BatchRequest { samples: (0..19).collect(), augment: Some(augment) };
        let loads = Arc::new(AtomicUsize::new(0));
        let flaky = dataset(Fake { flaky: true, loads: Arc::clone(&loads), ..Fake::default() });
        let pictures = dataset(Fake::default());
        let options = LoaderOptions { max_broken: 19, ..options(0) };
        let mut loader = Loader::new(flaky, std::iter::once(request), SIZE, options).unwrap();
        let batch = loader.next().unwrap().unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 19, "a picture is read once for all views");
        assert_eq!(batch.samples, (0..19).step_by(2).collect::<Vec<u32>>());
        let mut expected = Vec::new();
        for view in 0..2 {
            for sample in &batch.samples {
                let place = [1, 2, 1000 + u64::from(*sample), view];
                let place = if view == 0 { &place[..3] } else { &place[..] };
                let mut out = vec![0; transform::bytes(SIZE)];
                let image = pictures.image(*sample as usize).unwrap();
                transform::training(&image, SIZE, (0.3, 1.0), &mut rng(3, "crop", place), &mut out).unwrap();
                expected.extend(out);
            }
        }
        assert!(batch.pixels == expected);
    }

    #[test]
    fn panics_become_errors() {
        for threads in [0, 1, 3] {
            let fake = Fake { panics: vec![40], ..Fake::default() };
            let requests = [vec![1, 2], vec![3, 40, 4], vec![5]].map(|samples| BatchRequest { samples, augment: None });
            let mut loader = Loader::new(dataset(fake), requests.into_iter(), SIZE, options(threads)).unwrap();
            assert!(loader.next().unwrap().is_ok());
            let message = loader.next().unwrap().unwrap_err().to_string();
            assert_eq!(message, "loading sample 40 panicked: picture 40 is haunted");
            assert!(loader.next().is_none());

            let requests = (0..3)
                .map(|step| if step < 2 { BatchRequest { samples: vec![], augment: None } } else { panic!("no more") });
            let mut loader = Loader::new(dataset(Fake::default()), requests, SIZE, options(threads)).unwrap();
            assert!(loader.next().unwrap().is_ok() && loader.next().unwrap().is_ok());
            assert_eq!(loader.next().unwrap().unwrap_err().to_string(), "choosing the next batch panicked: no more");
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn sample_outside_the_data_is_an_error() {
        let requests = std::iter::once(BatchRequest { samples: vec![200], augment: None });
        let mut loader = Loader::new(dataset(Fake::default()), requests, SIZE, options(1)).unwrap();
        assert_eq!(loader.next().unwrap().unwrap_err().to_string(), "a batch asks for sample 200 of 200 in fake");
    }

    #[test]
    fn no_requests_no_batches() {
        for threads in [0, 1, 8] {
            assert!(
                Loader::new(dataset(Fake::default()), requests(0), SIZE, options(threads)).unwrap().next().is_none()
            );
        }
    }

    #[test]
    fn early_drop_stops_the_threads() {
        for threads in [0, 1, 3, 8] {
            for taken in [0, 1, 4] {
                let dataset = dataset(Fake { slow: true, ..Fake::default() });
                let endless = (0..).flat_map(|_| requests(20));
                let start = Instant::now();
                let mut loader = Loader::new(Arc::clone(&dataset), endless, SIZE, options(threads)).unwrap();
                for _ in 0..taken {
                    loader.next().unwrap().unwrap();
                }
                drop(loader);
                assert_eq!(Arc::strong_count(&dataset), 1, "a thread still holds the data");
                assert!(start.elapsed() < Duration::from_secs(20));
            }
        }
    }

    #[test]
    fn loads_no_further_ahead_than_prefetch() {
        let loads = Arc::new(AtomicUsize::new(0));
        let fake = Fake { loads: Arc::clone(&loads), ..Fake::default() };
        let endless = (0..).map(|_| BatchRequest { samples: (0..10).collect(), augment: None });
        let mut loader =
            Loader::new(dataset(fake), endless, SIZE, LoaderOptions { prefetch: 2, ..options(4) }).unwrap();
        loader.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        // One batch was taken, two are ahead.
        assert!(loads.load(Ordering::Relaxed) <= 30);
    }

    #[test]
    fn recycled_memory_is_used_again() {
        let request = BatchRequest { samples: (0..10).collect(), augment: None };
        let mut loader = Loader::new(dataset(Fake::default()), vec![request; 3].into_iter(), SIZE, options(0)).unwrap();
        let first = loader.next().unwrap().unwrap();
        let (place, copy) = (first.pixels.as_ptr(), first.clone());
        loader.recycle(first);
        let second = loader.next().unwrap().unwrap();
        assert_eq!((second.pixels.as_ptr(), &second), (place, &copy));
    }
}
