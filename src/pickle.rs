//! Python's pickles as far as they hold data: dictionaries, lists, numbers, texts, PyTorch's tensors, NumPy's arrays. Nothing else.
//!
//! A pickle is a program for a small machine that may call any function of Python by its name. This machine knows no function: the
//! names in [`Global::find`] stand for data of their own, and any other name is an error that tells it. So reading a file runs no
//! code of it. What it may take is bounded: an operation makes at most one node, of which there may be [`MOST`]; texts and bytes stay
//! where they are in the stream; what must be copied cannot be more in all than the stream is long.
//!
//! Why it is our own: `serde-pickle` knows neither persistent ids, by which tensors name their storages, nor calls; the reader in
//! `candle-core` comes with a whole framework, and reads neither the files from before PyTorch 1.6 nor TorchScript's.
//!
//! Sources: `pickletools.py` of Python, `torch/serialization.py` and `torch/csrc/jit/serialization/pickler.h` of PyTorch.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::Dtype;

/// Nodes of a pickle, and items that are put into lists and dictionaries. The optimiser and the weights of a model of a thousand
/// tensors take 200,000; CIFAR-100's training pictures 300,000.
const MOST: usize = 1 << 22;

/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

/// The place of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// A value of the pickle; its parts are named by their places, so that neither depth nor a cycle can do harm.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// With a fraction: nothing that is read here has such a number.
    Float,
    Text(Cow<'a, str>),
    /// Also a text of Python 2.
    Bytes(Cow<'a, [u8]>),
    Tuple(Vec<Id>),
    /// Also a set.
    List(Vec<Id>),
    /// Pairs in the order in which they were put in.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(Tensor),
    Array(Array),
    /// An object of which the attributes are known, and no more: a module of TorchScript, a namespace of arguments.
    Object(Option<Id>),
    /// What is known to be harmless, and means nothing here: a device, a type, a number of more than 64 bits.
    Inert,
}

/// Numbers of one type, in a file of their own or behind the pickle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Numbers in it, as the pickle says.
    pub count: u64,
    /// How many numbers lie before the first, where it is a view of another of the same key.
    pub before: u64,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub storage: Id,
    /// Of the first number, counted from the storage's first.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Numbers from one place to the next along each dimension.
    pub strides: Vec<usize>,
}

/// An array of NumPy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    /// As NumPy writes it: `u1`, `f4`, ...
    pub dtype: String,
    pub fortran: bool,
    pub bytes: Option<Id>,
}

/// A name that may stand in a pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    /// A class of mappings.
    Mapping,
    /// A class of lists or sets.
    Sequence,
    /// A class whose objects are known by their attributes.
    Attributes,
    /// A type as a value: of tensors' numbers, or Python's own.
    Type,
    /// A function whose results mean nothing here.
    Inert,
    /// A function of one argument, which is its result.
    Same,
    StorageType(Dtype),
    Tensor,
    Parameter,
    TensorOfType,
    /// From a text to bytes of its letters.
    Encode,
    ArrayReconstruct,
    ArrayType,
    Script,
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Mapping,
            ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") => Global::Sequence,
            ("builtins" | "__builtin__", "dict") => Global::Mapping,
            ("builtins" | "__builtin__", "int" | "long" | "float" | "bool" | "str" | "bytes" | "object") => {
                Global::Type
            }
            ("builtins" | "__builtin__", "bytearray") => Global::Encode,
            ("argparse", "Namespace") | ("types", "SimpleNamespace") => Global::Attributes,
            ("_codecs", "encode") => Global::Encode,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::Parameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::TensorOfType,
            ("torch", "Size") => Global::Sequence,
            ("torch", "device") => Global::Inert,
            ("torch" | "torch.cuda", name) => match name.strip_suffix("Storage") {
                Some(numbers) => Global::StorageType(storage_type(numbers)?),
                None if name == "Tensor" || TORCH_TYPES.contains(&name) => Global::Type,
                None => return None,
            },
            ("torch.nn.parameter", "Parameter") => Global::Type,
            ("torch.jit._pickle", "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist") => {
                Global::Same
            }
            ("torch.jit._pickle", "restore_type_tag") => Global::Same,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::ArrayReconstruct,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::Inert,
            ("numpy", "ndarray") => Global::Type,
            ("numpy", "dtype") => Global::ArrayType,
            _ if module == "__torch__" || module.starts_with("__torch__.") => Global::Script,
            _ => return None,
        })
    }
}

const TORCH_TYPES: [&str; 15] = [
    "float", "float16", "float32", "float64", "half", "double", "bfloat16", "int8", "int16", "int32", "int64", "long",
    "int", "uint8", "bool",
];

fn storage_type(numbers: &str) -> Option<Dtype> {
    Some(match numbers {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}

/// What a pickle held.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
    /// Bytes of the stream that the pickle took.
    pub len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that `bytes` begin with. An error says what is wrong, and at which byte.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let mut machine = Machine::new(bytes);
        match machine.run() {
            Ok(root) => Ok(Pickle { nodes: machine.nodes, root, len: machine.at }),
            Err(what) => Err(format!("byte {} of the pickle: {what}", machine.operation)),
        }
    }

    pub(crate) fn root(&self) -> Id {
        self.root
    }

    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// Every dictionary, wherever it stands.
    pub(crate) fn dictionaries(&self) -> impl Iterator<Item = (Id, &[(Id, Id)])> {
        (0..).map(Id).zip(&self.nodes).filter_map(|(id, node)| match node {
            Node::Dict(pairs) => Some((id, pairs.as_slice())),
            _ => None,
        })
    }

    /// Every storage that a tensor may be a view of.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// The text at `id`, also where Python 2 wrote it.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        text(self.node(id))
    }

    /// What a dictionary, or an object by its attributes, has under `key`: the last that was put there.
    pub(crate) fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id)?.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// The pairs of a dictionary, or an object's attributes.
    pub(crate) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(pairs) => Some(pairs),
            Node::Object(Some(state)) => match self.node(*state) {
                Node::Dict(pairs) => Some(pairs),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        items(self.node(id))
    }

    pub(crate) fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    pub(crate) fn bytes(&self, id: Id) -> Option<&[u8]> {
        match self.node(id) {
            Node::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn text<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match node {
        Node::Text(text) => Some(text),
        Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn items<'n>(node: &'n Node<'_>) -> Option<&'n [Id]> {
    match node {
        Node::Tuple(items) | Node::List(items) => Some(items),
        _ => None,
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the operation in hand began.
    operation: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Nodes and items so far.
    spent: usize,
    /// Bytes that were copied.
    copied: usize,
}

/// What an operation comes to.
type Done<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Machine<'a> {
        Machine {
            bytes,
            at: 0,
            operation: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            spent: 0,
            copied: 0,
        }
    }

    fn run(&mut self) -> Done<Id> {
        loop {
            self.operation = self.at;
            self.spend(1)?;
            let [code] = self.array()?;
            if code == b'.' {
                return self.pop();
            }
            self.perform(code)?;
        }
    }

    fn perform(&mut self, code: u8) -> Done<()> {
        match code {
            0x80 => match self.array()? {
                [0..=5] => Ok(()),
                [protocol] => Err(format!("it is of protocol {protocol}; 0 to 5 are known")),
            },
            // A frame's length helps a reader of streams.
            0x95 => self.array::<8>().map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.take_marked().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => self.array().and_then(|raw| self.push(Node::Int(i64::from(i32::from_le_bytes(raw))))),
            b'K' => self.array().and_then(|[byte]| self.push(Node::Int(i64::from(byte)))),
            b'M' => self.array().and_then(|raw| self.push(Node::Int(i64::from(u16::from_le_bytes(raw))))),
            b'G' => self.array::<8>().and_then(|_| self.push(Node::Float)),
            0x8a => self.length::<1>().and_then(|length| self.long(length)),
            0x8b => self.length::<4>().and_then(|length| self.long(length)),
            b'I' | b'L' => {
                let line = self.line()?;
                match (code, line) {
                    (b'I', "00") => return self.push(Node::Bool(false)),
                    (b'I', "01") => return self.push(Node::Bool(true)),
                    _ => {}
                }
                let number = line.strip_suffix('L').unwrap_or(line);
                let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                match number.parse() {
                    Ok(value) => self.push(Node::Int(value)),
                    Err(_) if digits(number.strip_prefix('-').unwrap_or(number)) => self.push(Node::Inert),
                    Err(_) => Err("a whole number that is none".into()),
                }
            }
            b'F' => {
                self.line()?.parse::<f64>().map_err(|_| "a number that is none".to_string())?;
                self.push(Node::Float)
            }
            b'X' => self.length::<4>().and_then(|length| self.text(length)),
            0x8c => self.length::<1>().and_then(|length| self.text(length)),
            0x8d => self.length::<8>().and_then(|length| self.text(length)),
            b'T' | b'B' => self.length::<4>().and_then(|length| self.binary(length)),
            b'U' | b'C' => self.length::<1>().and_then(|length| self.binary(length)),
            0x8e | 0x96 => self.length::<8>().and_then(|length| self.binary(length)),
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let first = self.above(count)?;
                let items = self.stack.split_off(first);
                self.push(Node::Tuple(items))
            }
            b't' => self.take_marked().and_then(|items| self.push(Node::Tuple(items))),
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'l' | 0x91 => self.take_marked().and_then(|items| self.push(Node::List(items))),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' | 0x90 => self.take_marked().and_then(|items| self.append(items)),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.take_marked()?;
                self.push(Node::Dict(Vec::new()))?;
                self.set(items)
            }
            b's' => {
                let first = self.above(2)?;
                let items = self.stack.split_off(first);
                self.set(items)
            }
            b'u' => self.take_marked().and_then(|items| self.set(items)),
            b'p' => self.line().and_then(number_of).and_then(|place| self.put(place)),
            b'q' => self.array().and_then(|[place]| self.put(u32::from(place))),
            b'r' => self.array().and_then(|raw| self.put(u32::from_le_bytes(raw))),
            0x94 => self.put(self.memo.len() as u32),
            b'g' => self.line().and_then(number_of).and_then(|place| self.get(place)),
            b'h' => self.array().and_then(|[place]| self.get(u32::from(place))),
            b'j' => self.array().and_then(|raw| self.get(u32::from_le_bytes(raw))),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.node(module), self.node(name)) {
                    (Node::Text(Cow::Borrowed(module)), Node::Text(Cow::Borrowed(name))) => self.global(module, name),
                    _ => Err("a name that is no text".into()),
                }
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let result = self.call(callee, arguments)?;
                self.stack.push(result);
                Ok(())
            }
            0x92 => Err("an object that is made with named arguments, which no data are".into()),
            b'b' => {
                let (state, target) = (self.pop()?, self.top()?);
                self.build(target, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Node::Storage(storage))
            }
            _ => Err(format!("the operation {code:#04x}, which is not one of a pickle of data of protocol 2 to 5")),
        }
    }

    fn spend(&mut self, count: usize) -> Done<()> {
        self.spent += count;
        match self.spent <= MOST {
            true => Ok(()),
            false => Err(format!("it has more than {MOST} values, and no model's weights have so many")),
        }
    }

    fn take(&mut self, length: usize) -> Done<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match rest.get(..length) {
            Some(taken) => {
                self.at += length;
                Ok(taken)
            }
            None => Err(format!("it is cut short: {length} bytes are wanted, and {} are left", rest.len())),
        }
    }

    fn array<const N: usize>(&mut self) -> Done<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    /// A length of so many bytes.
    fn length<const N: usize>(&mut self) -> Done<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length beyond all memory".into())
    }

    /// A line of text, without its end.
    fn line(&mut self) -> Done<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it is cut short within a line")?;
        self.at += end + 1;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        std::str::from_utf8(line).map_err(|_| "a line that is no text".into())
    }

    fn push(&mut self, node: Node<'a>) -> Done<()> {
        let id = self.add(node);
        self.stack.push(id);
        Ok(())
    }

    /// Every operation adds few nodes, and [`Machine::spend`] bounds the operations.
    fn add(&mut self, node: Node<'a>) -> Id {
        self.nodes.push(node);
        Id(self.nodes.len() as u32 - 1)
    }

    fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// The height of the stack below which an operation cannot reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn above(&self, count: usize) -> Done<usize> {
        let first = self.stack.len().checked_sub(count).filter(|first| *first >= self.floor());
        first.ok_or_else(|| "an operation wants more values than there are".into())
    }

    fn pop(&mut self) -> Done<Id> {
        let first = self.above(1)?;
        Ok(self.stack.split_off(first)[0])
    }

    fn top(&self) -> Done<Id> {
        Ok(self.stack[self.above(1)?])
    }

    /// What has come since the last mark.
    fn take_marked(&mut self) -> Done<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self, length: usize) -> Done<()> {
        let raw = self.take(length)?;
        if length > 8 {
            return self.push(Node::Inert);
        }
        let negative = raw.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(raw);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, length: usize) -> Done<()> {
        let raw = self.take(length)?;
        let text = String::from_utf8_lossy(raw);
        if let Cow::Owned(text) = &text {
            self.copy(text.len() / 3)?;
        }
        self.push(Node::Text(text))
    }

    fn binary(&mut self, length: usize) -> Done<()> {
        let raw = self.take(length)?;
        self.push(Node::Bytes(Cow::Borrowed(raw)))
    }

    /// Counts bytes that are copied, of which there may be as many as the stream is long.
    fn copy(&mut self, count: usize) -> Done<()> {
        self.copied = self.copied.saturating_add(count);
        match self.copied <= self.bytes.len() {
            true => Ok(()),
            false => Err("the same text is copied again and again".into()),
        }
    }

    fn put(&mut self, place: u32) -> Done<()> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn get(&mut self, place: u32) -> Done<()> {
        let id = *self.memo.get(&place).ok_or_else(|| format!("there is no value number {place}"))?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Done<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::List(list) => list.extend(items),
            _ => return Err("items for what is no list".into()),
        }
        Ok(())
    }

    /// Puts keys and values, in turn, into the dictionary on top.
    fn set(&mut self, items: Vec<Id>) -> Done<()> {
        let target = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".into());
        }
        let pairs = items.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(known) => known.extend(pairs),
            // An object that is a mapping too: its items mean nothing here.
            Node::Object(_) | Node::Inert => {}
            _ => return Err("keys for what is no dictionary".into()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Done<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Node::Global(global)),
            None => {
                let full: String = format!("{module}.{name}").chars().take(100).flat_map(char::escape_debug).collect();
                Err(format!(
                    "it asks for Python's '{full}', which is no tensor, dictionary, list, number or text; nothing was run. \
                     Save the state_dict alone: torch.save(model.state_dict(), FILE)"
                ))
            }
        }
    }

    /// What a call of a known name comes to.
    fn call(&mut self, callee: Id, arguments: Id) -> Done<Id> {
        let Node::Global(global) = *self.node(callee) else { return Err("a call of what is no name".into()) };
        let Node::Tuple(arguments) = self.node(arguments) else { return Err("a call without arguments".into()) };
        // Of the longest call there are seven in use.
        let arguments: Vec<Id> = arguments.iter().take(8).copied().collect();
        let first = arguments.first().copied();
        let needed = || first.ok_or_else(|| "a call without its argument".to_string());
        Ok(match global {
            Global::Tensor => {
                let tensor = self.tensor(&arguments)?;
                self.add(Node::Tensor(tensor))
            }
            Global::Parameter | Global::Same => needed()?,
            Global::TensorOfType => match (self.node(needed()?), arguments.get(2).map(|inner| self.node(*inner))) {
                (Node::Global(Global::Tensor | Global::Parameter), Some(Node::Tuple(_))) => {
                    self.call(needed()?, arguments[2])?
                }
                _ => return Err("a tensor of a type that is not known".into()),
            },
            Global::Mapping => match first.map(|first| self.node(first)) {
                Some(Node::List(items)) => {
                    let pair = |item: &Id| match items_of(&self.nodes, *item) {
                        Some(&[key, value]) => Ok((key, value)),
                        _ => Err("a mapping of what are no pairs".to_string()),
                    };
                    let pairs = items.iter().map(pair).collect::<Done<Vec<_>>>()?;
                    self.spend(pairs.len())?;
                    self.add(Node::Dict(pairs))
                }
                _ => self.add(Node::Dict(Vec::new())),
            },
            Global::Sequence => match first {
                Some(first) if items(self.node(first)).is_some() => first,
                Some(_) => return Err("a list of what is none".into()),
                None => self.add(Node::List(Vec::new())),
            },
            Global::Encode => {
                let encoded = match first.map(|first| self.node(first)) {
                    None => Vec::new(),
                    Some(Node::Bytes(bytes)) => bytes.to_vec(),
                    Some(Node::Text(text)) => {
                        let letter = |letter: char| u8::try_from(u32::from(letter));
                        text.chars()
                            .map(letter)
                            .collect::<Result<_, _>>()
                            .map_err(|_| "bytes beyond 255".to_string())?
                    }
                    Some(_) => return Err("bytes of what is no text".into()),
                };
                self.copy(encoded.len())?;
                self.add(Node::Bytes(Cow::Owned(encoded)))
            }
            Global::ArrayReconstruct => self.add(Node::Array(Array::default())),
            // The type's name is kept as it was written.
            Global::ArrayType => needed()?,
            Global::Attributes | Global::Script => self.add(Node::Object(None)),
            Global::Inert => self.add(Node::Inert),
            Global::Type | Global::StorageType(_) => return Err("a call of a type".into()),
        })
    }

    fn build(&mut self, target: Id, state: Id) -> Done<()> {
        if matches!(self.node(target), Node::Array(_)) {
            let array = self.array_of(state)?;
            self.nodes[target.0 as usize] = Node::Array(array);
        } else if let Node::Object(attributes) = &mut self.nodes[target.0 as usize] {
            *attributes = Some(state);
        }
        // Attributes of anything else, as the `_metadata` of a state_dict or the byte order of a type, mean nothing here.
        Ok(())
    }

    /// From NumPy's (version, shape, type, whether columns come first, bytes).
    fn array_of(&self, state: Id) -> Done<Array> {
        let Some(&[_, shape, dtype, fortran, bytes]) = items(self.node(state)) else {
            return Err("an array without its five parts".into());
        };
        let bytes = match self.node(bytes) {
            Node::Bytes(_) => Some(bytes),
            // An array of objects has a list.
            _ => None,
        };
        let dtype = text(self.node(dtype)).unwrap_or("").chars().take(20).collect();
        let fortran = matches!(self.node(fortran), Node::Bool(true) | Node::Int(1));
        Ok(Array { shape: self.extents(shape)?, dtype, fortran, bytes })
    }

    /// The numbers of a tuple.
    fn extents(&self, id: Id) -> Done<Vec<usize>> {
        let items = items(self.node(id)).ok_or("a shape that is no tuple")?;
        if items.len() > MOST_DIMENSIONS {
            return Err(format!("a shape of {} dimensions; {MOST_DIMENSIONS} are the most", items.len()));
        }
        let extent = |item: &Id| match self.node(*item) {
            Node::Int(value) => usize::try_from(*value).map_err(|_| format!("an extent of {value}")),
            _ => Err("an extent that is no number".to_string()),
        };
        items.iter().map(extent).collect()
    }

    fn whole(&self, id: Id) -> Done<u64> {
        match self.node(id) {
            Node::Int(value) => {
                u64::try_from(*value).map_err(|_| format!("a number of {value}, where a count is wanted"))
            }
            _ => Err("a count that is no number".into()),
        }
    }

    /// From PyTorch's (storage, offset, shape, strides, ...).
    fn tensor(&self, arguments: &[Id]) -> Done<Tensor> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err("a tensor without its four parts".into());
        };
        if !matches!(self.node(storage), Node::Storage(_)) {
            return Err("a tensor of what is no storage".into());
        }
        let (offset, shape, strides) = (self.whole(offset)?, self.extents(shape)?, self.extents(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor of {} dimensions with {} strides", shape.len(), strides.len()));
        }
        Ok(Tensor { storage, offset, shape, strides })
    }

    /// From PyTorch's ('storage', type, key, place, count[, (key of the view, offset, count)]).
    fn storage(&self, id: Id) -> Done<Storage<'a>> {
        let parts = items(self.node(id)).filter(|parts| parts.len() == 5 || parts.len() == 6);
        let parts = parts.ok_or("a reference that is no storage's")?;
        if text(self.node(parts[0])) != Some("storage") {
            return Err("a reference to what is no storage".into());
        }
        let dtype = match self.node(parts[1]) {
            Node::Global(Global::StorageType(dtype)) => *dtype,
            _ => return Err("a storage without a type of numbers".into()),
        };
        let key = match self.node(parts[2]) {
            Node::Text(Cow::Borrowed(key)) => *key,
            _ => return Err("a storage without a name".into()),
        };
        let (mut count, mut before) = (self.whole(parts[4])?, 0);
        if let Some(view) = parts.get(5).filter(|view| !matches!(self.node(**view), Node::None)) {
            let Some(&[_, offset, length]) = items(self.node(*view)) else {
                return Err("a view without its parts".into());
            };
            (before, count) = (self.whole(offset)?, self.whole(length)?);
        }
        Ok(Storage { key, dtype, count, before })
    }
}

fn items_of<'n>(nodes: &'n [Node<'_>], id: Id) -> Option<&'n [Id]> {
    items(&nodes[id.0 as usize])
}

fn number_of(line: &str) -> Done<u32> {
    line.parse().map_err(|_| "a place that is no number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        Pickle::read(bytes).unwrap_err()
    }

    /// What `python3 -c "import pickle; print(pickle.dumps(..., protocol=4))"` prints of
    /// `{'a': [1, -2, 3.5, True, None], b'b': (1 << 40, 1 << 70), 'c': {'d': 300}}`.
    const OF_PYTHON: &[u8] = b"\x80\x04\x95A\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\
        \x00\x00\x00\x00\x88NeC\x01b\x94\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@\x86\x94\x8c\x01c\x94\
        }\x94\x8c\x01d\x94M,\x01su.";

    #[test]
    fn values_are_those_of_python() {
        let pickle = Pickle::read(OF_PYTHON).unwrap();
        assert_eq!(pickle.len, OF_PYTHON.len());
        let root = pickle.root();
        let list = pickle.items(pickle.get(root, "a").unwrap()).unwrap();
        let found: Vec<String> = list.iter().map(|item| format!("{:?}", pickle.node(*item))).collect();
        assert_eq!(found, ["Int(1)", "Int(-2)", "Float", "Bool(true)", "None"]);
        let tuple = pickle.items(pickle.get(root, "b").unwrap()).unwrap();
        assert_eq!(pickle.int(tuple[0]), Some(1 << 40));
        assert!(matches!(pickle.node(tuple[1]), Node::Inert));
        let inner = pickle.get(root, "c").unwrap();
        assert_eq!(pickle.int(pickle.get(inner, "d").unwrap()), Some(300));
        assert_eq!(pickle.get(inner, "e"), None);
    }

    #[test]
    fn no_name_of_pythons_is_called_that_is_not_data() {
        for (bytes, name) in [
            (&b"cos\nsystem\n(X\x02\x00\x00\x00idtR."[..], "os.system"),
            (b"\x80\x02cposix\nsystem\n.", "posix.system"),
            (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "builtins.exec"),
            (b"\x80\x02ctorch.hub\nload\n.", "torch.hub.load"),
            (b"\x80\x02copen_clip.model\nCLIP\n)\x81.", "open_clip.model.CLIP"),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x02ctorch\nQInt8Storage\n.", "torch.QInt8Storage"),
        ] {
            let message = message(bytes);
            assert!(message.contains(&format!("it asks for Python's '{name}'")), "{message}");
            assert!(message.contains("nothing was run"), "{message}");
        }
        // Names under which there are other operations.
        assert!(message(b"\x80\x02(i__main__\nX\n.").contains("the operation 0x69"));
        assert!(message(b"\x80\x02\x82\x01.").contains("the operation 0x82"));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        assert_eq!(message(b""), "byte 0 of the pickle: it is cut short: 1 bytes are wanted, and 0 are left");
        assert_eq!(message(b"\x80\x02."), "byte 2 of the pickle: an operation wants more values than there are");
        assert_eq!(message(b"\x80\x09."), "byte 0 of the pickle: it is of protocol 9; 0 to 5 are known");
        assert!(message(b"\x80\x02X\xff\xff\xff\x7fab.").contains("2147483647 bytes are wanted, and 3 are left"));
        assert!(message(b"\x80\x02N(0.").contains("more values than there are"));
        assert!(message(b"\x80\x02}(K\x01u.").contains("a key without a value"));
        assert!(message(b"\x80\x02h\x07.").contains("there is no value number 7"));
        assert!(message(b"\x80\x02NK\x01a.").contains("items for what is no list"));
        assert!(message(b"\x80\x02NNR.").contains("a call of what is no name"));
        assert!(message(b"\x80\x02NQ.").contains("a reference that is no storage's"));
    }

    #[test]
    fn a_short_stream_cannot_ask_for_much() {
        // Lists of lists of lists, by doubling.
        let mut laughs = b"\x80\x02]q\x00".to_vec();
        laughs.extend(b"h\x00h\x00\x86q\x00".repeat(2000));
        laughs.push(b'.');
        assert!(Pickle::read(&laughs).is_ok());
        let mut endless = vec![0x80, 2];
        endless.resize(MOST + 10, b'N');
        assert!(message(&endless).contains("more than 4194304 values"));
        // One text of a thousand letters, made into bytes a thousand times.
        let mut copies = b"\x80\x02c_codecs\nencode\nq\x00X\xe8\x03\x00\x00".to_vec();
        copies.extend([b'a'; 1000]);
        copies.extend(b"q\x01");
        copies.extend(b"h\x00h\x01\x85R".repeat(1000));
        copies.push(b'.');
        assert!(message(&copies).contains("copied again and again"));
        // A cycle, and depth.
        let cycle = Pickle::read(b"\x80\x02]q\x00h\x00a.").unwrap();
        assert_eq!(cycle.items(cycle.root()).unwrap(), [cycle.root()]);
        let deep = [&b"\x80\x02"[..], &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
        assert!(Pickle::read(&deep).is_ok());
    }
}
