//! Reads from the kernels' sources what the code that launches them must know: parameters, threads of a block, sizes of tiles,
//! numbers of enumerations. From that comes Rust in which a launch that does not fit its kernel does not compile.
//!
//! A source says it in the macros of `kernels/ptx.cuh` and in plain declarations at its top level:
//!   KERNEL(threads, blocks, name, parameters...)       by itself, or in a macro of which each use is one kernel
//!   constexpr int NAME = arithmetic of such names;      others, and those of templates, are the kernels' own
//!   enum class Name : int { NAMES };  struct Name { numbers };  using Name = type;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// What one .cu file and the headers that it includes declare.
#[derive(Debug, Default)]
pub struct Declarations {
    constants: Vec<(String, i64)>,
    enumerations: Vec<(String, Vec<String>)>,
    /// Structs that kernels take pointers to, with their bytes.
    records: Vec<(String, usize)>,
    signatures: Vec<Signature>,
}

/// The parameters of a kernel, and of all others of its file that have the same.
#[derive(Debug)]
struct Signature {
    /// As the first of them, or the macro that declares it.
    name: String,
    parameters: Vec<(String, Kind)>,
    kernels: Vec<Kernel>,
}

#[derive(Debug)]
struct Kernel {
    name: String,
    /// The most threads of a block, and the blocks that a multiprocessor is to hold.
    threads: i64,
    blocks: i64,
}

/// A parameter's type.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Int,
    Long,
    Flag,
    Unsigned,
    Float,
    TensorMap,
    Enumeration(String),
    Pointer { to: String, nullable: bool },
}

type Tokens<'a> = &'a [String];

/// A function-like macro whose body has a kernel.
struct Macro {
    parameters: Vec<String>,
    body: Vec<String>,
}

/// What the file `name` of `sources`, all files by name, declares. Fails with a sentence where a kernel is declared in a way that
/// is not understood.
pub fn read(name: &str, sources: &BTreeMap<String, String>) -> Result<Declarations, String> {
    let mut reader = Reader::default();
    reader.file(name, sources).map_err(|what| format!("kernels/{name}: {what}"))?;
    // Of what the headers declare, the structs that no kernel here points to are the kernels' own.
    let signatures = &reader.declared.signatures;
    let pointed = |record: &str| {
        let points = |kind: &Kind| matches!(kind, Kind::Pointer { to, .. } if to == record);
        signatures.iter().flat_map(|signature| &signature.parameters).any(|(_, kind)| points(kind))
    };
    let mut records = std::mem::take(&mut reader.declared.records);
    records.retain(|(record, _)| pointed(record));
    reader.declared.records = records;
    Ok(reader.declared)
}

#[derive(Default)]
struct Reader {
    declared: Declarations,
    macros: HashMap<String, Macro>,
    included: Vec<String>,
}

impl Reader {
    fn file(&mut self, name: &str, sources: &BTreeMap<String, String>) -> Result<(), String> {
        if self.included.iter().any(|included| included == name) {
            return Ok(());
        }
        self.included.push(name.to_string());
        let source = sources.get(name).ok_or("there is no such file")?;
        let source = without_comments(source).replace("\\\n", " ");
        let mut code = String::new();
        for line in source.lines() {
            match line.trim_start().strip_prefix('#') {
                Some(directive) => self.directive(directive, sources)?,
                None => code.extend([line, "\n"]),
            }
        }
        self.statements(&tokens(&code))
    }

    fn directive(&mut self, directive: &str, sources: &BTreeMap<String, String>) -> Result<(), String> {
        if let Some(path) = directive.strip_prefix("include \"") {
            let path = path.trim_end().trim_end_matches('"');
            // The emulator's headers are not among the kernels'.
            return if sources.contains_key(path) { self.file(path, sources) } else { Ok(()) };
        }
        let Some(definition) = directive.strip_prefix("define ") else { return Ok(()) };
        let Some(open) = definition.find(['(', ' ']).filter(|at| definition[*at..].starts_with('(')) else {
            return Ok(());
        };
        let Some(close) = definition.find(')') else { return Ok(()) };
        let body = tokens(&definition[close + 1..]);
        if body.iter().any(|token| token == "KERNEL") && &definition[..open] != "KERNEL" {
            let parameters = definition[open + 1..close].split(',').map(|name| name.trim().to_string()).collect();
            self.macros.insert(definition[..open].to_string(), Macro { parameters, body });
        }
        Ok(())
    }

    /// Goes through what lies outside of all braces.
    fn statements(&mut self, mut rest: Tokens) -> Result<(), String> {
        while let Some(first) = rest.first() {
            let end = statement_end(rest);
            let statement = &rest[..end];
            match first.as_str() {
                "constexpr" => self.constants(statement),
                "enum" => self.enumeration(statement)?,
                "struct" => self.record(statement),
                "using" => self.alias(statement),
                "KERNEL" => self.kernel(statement, None)?,
                name if self.macros.contains_key(name) => {
                    let name = name.to_string();
                    let expanded = self.expand(&name, statement)?;
                    self.kernel(&expanded, Some(&name))?;
                    // A use of a macro has no end of its own.
                    rest = &rest[group_end(&rest[1..]) + 1..];
                    continue;
                }
                _ => {}
            }
            rest = &rest[end..];
        }
        Ok(())
    }

    /// `constexpr int A = .., B = ..;`: those whose value is arithmetic of what is known.
    fn constants(&mut self, statement: Tokens) {
        let [_, kind, declared @ .., _] = statement else { return };
        if kind != "int" {
            return;
        }
        for part in split(declared) {
            if let [name, equals, value @ ..] = part
                && equals == "="
                && let Some(value) = self.value(value)
            {
                self.declared.constants.push((name.clone(), value));
            }
        }
    }

    /// `enum class Name : int { A, B };`, numbered from 0.
    fn enumeration(&mut self, statement: Tokens) -> Result<(), String> {
        let [_, class, name, colon, int, open, names @ .., close, _] = statement else { return Ok(()) };
        if [class, colon, int, open, close] != ["class", ":", "int", "{", "}"] {
            return Ok(());
        }
        let names: Vec<String> =
            split(names).iter().map(|tokens| tokens.concat()).filter(|name| !name.is_empty()).collect();
        if let Some(odd) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("{odd} of enum {name}: names alone are understood, numbered from 0"));
        }
        self.declared.enumerations.push((name.clone(), names));
        Ok(())
    }

    /// `struct alignas(n) Name { float a, b; uint32_t c[2]; };`. Others are the kernels' own.
    fn record(&mut self, statement: Tokens) {
        let Some(open) = statement.iter().position(|token| token == "{") else { return };
        let Some(name) = statement[..open].last().filter(|name| is_name(name)) else { return };
        let Some(fields) = statement[open + 1..].strip_suffix(["}", ";"].map(String::from).as_slice()) else { return };
        let mut bytes = 0;
        for field in fields.split(|token| token == ";") {
            let Some((kind, names)) = field.split_first() else { continue };
            let Some((_, size)) = number(kind) else { return };
            for name in split(names) {
                match name {
                    [name] if is_name(name) => bytes += size,
                    [_, open, count, close] if open == "[" && close == "]" => {
                        let Some(count) = self.value(std::slice::from_ref(count)) else { return };
                        bytes += size * count as usize;
                    }
                    _ => return,
                }
            }
        }
        let aligned =
            statement[..open].iter().position(|token| token == "alignas").and_then(|at| statement.get(at + 2));
        let alignment = aligned.and_then(|bytes| bytes.parse().ok()).unwrap_or(4);
        self.declared.records.push((name.clone(), bytes.next_multiple_of(alignment)));
    }

    /// `using Name = uint64_t;`
    fn alias(&mut self, statement: Tokens) {
        if let [_, name, _, kind, _] = statement
            && let Some((_, bytes)) = number(kind)
        {
            self.declared.records.push((name.clone(), bytes));
        }
    }

    /// The body of a macro with the arguments of one of its uses.
    fn expand(&self, name: &str, used: Tokens) -> Result<Vec<String>, String> {
        let Macro { parameters, body } = &self.macros[name];
        let arguments = arguments(used);
        if arguments.len() != parameters.len() {
            return Err(format!("{name} takes {} arguments, not {}", parameters.len(), arguments.len()));
        }
        let mut expanded: Vec<String> = Vec::new();
        let mut pasted = false;
        for token in body {
            if token == "##" {
                pasted = true;
                continue;
            }
            let argument = parameters.iter().position(|parameter| parameter == token).map(|at| arguments[at]);
            let replaced = argument.unwrap_or(std::slice::from_ref(token));
            if pasted && let (Some(last), [first, rest @ ..]) = (expanded.last_mut(), replaced) {
                last.push_str(first);
                expanded.extend_from_slice(rest);
            } else {
                expanded.extend_from_slice(replaced);
            }
            pasted = false;
        }
        let kernel = expanded.iter().position(|token| token == "KERNEL").ok_or("KERNEL is in the macro's body")?;
        Ok(expanded.split_off(kernel))
    }

    /// `KERNEL(threads, blocks, name, parameters...)`, of the macro `family` or by itself.
    fn kernel(&mut self, statement: Tokens, family: Option<&str>) -> Result<(), String> {
        let arguments = arguments(statement);
        let (threads, blocks, name, parameters) = match arguments.as_slice() {
            [threads, blocks, [name], parameters @ ..] if is_name(name) => (threads, blocks, name, parameters),
            _ => return Err(format!("KERNEL({}) has no threads, blocks and name", statement.concat())),
        };
        let size = |tokens: Tokens| self.value(tokens).ok_or(format!("{name}: {} is no known number", tokens.concat()));
        let kernel = Kernel { name: name.clone(), threads: size(threads)?, blocks: size(blocks)? };
        let parameters: Vec<(String, Kind)> = parameters
            .iter()
            .map(|parameter| self.parameter(parameter).ok_or(format!("{name}: what is `{}`?", parameter.join(" "))))
            .collect::<Result<_, _>>()?;
        let signatures = &mut self.declared.signatures;
        match signatures.iter_mut().find(|signature| signature.parameters == parameters) {
            Some(signature) => signature.kernels.push(kernel),
            None => {
                let name = family.unwrap_or(name).to_string();
                signatures.push(Signature { name, parameters, kernels: vec![kernel] });
            }
        }
        Ok(())
    }

    fn parameter(&self, tokens: Tokens) -> Option<(String, Kind)> {
        let (name, kind) = tokens.split_last()?;
        let words: Vec<&str> = kind.iter().map(String::as_str).filter(|word| *word != "const").collect();
        let kind = match words.as_slice() {
            ["NULLABLE", to, "*"] => Kind::Pointer { to: to.to_string(), nullable: true },
            [to, "*"] => Kind::Pointer { to: to.to_string(), nullable: false },
            ["__grid_constant__", "TensorMap"] => Kind::TensorMap,
            ["int"] => Kind::Int,
            ["int64_t"] => Kind::Long,
            ["Flag"] => Kind::Flag,
            ["uint32_t"] => Kind::Unsigned,
            ["float"] => Kind::Float,
            [name] if self.declared.enumerations.iter().any(|(known, _)| known == name) => {
                Kind::Enumeration(name.to_string())
            }
            _ => return None,
        };
        is_name(name).then(|| (name.clone(), kind))
    }

    /// The value of arithmetic: numbers, constants read so far, `+ - * / %` and parentheses.
    fn value(&self, tokens: Tokens) -> Option<i64> {
        let mut rest = tokens;
        let value = self.sum(&mut rest)?;
        rest.is_empty().then_some(value)
    }

    fn sum(&self, rest: &mut Tokens) -> Option<i64> {
        let mut value = self.product(rest)?;
        while let [sign, after @ ..] = *rest
            && (sign == "+" || sign == "-")
        {
            *rest = after;
            let other = self.product(rest)?;
            value = if sign == "+" { value.checked_add(other)? } else { value.checked_sub(other)? };
        }
        Some(value)
    }

    fn product(&self, rest: &mut Tokens) -> Option<i64> {
        let mut value = self.term(rest)?;
        while let [sign, after @ ..] = *rest
            && ["*", "/", "%"].contains(&sign.as_str())
        {
            *rest = after;
            let other = self.term(rest)?;
            value = match sign.as_str() {
                "*" => value.checked_mul(other)?,
                "/" => value.checked_div(other)?,
                _ => value.checked_rem(other)?,
            };
        }
        Some(value)
    }

    fn term(&self, rest: &mut Tokens) -> Option<i64> {
        let (first, after) = rest.split_first()?;
        *rest = after;
        if first == "(" {
            let value = self.sum(rest)?;
            let (close, after) = rest.split_first()?;
            *rest = after;
            return (close == ")").then_some(value);
        }
        let known = || self.declared.constants.iter().find(|(name, _)| name == first).map(|(_, value)| *value);
        first.parse().ok().or_else(known)
    }
}

/// The arguments of a macro's use: between the brackets that follow its name.
fn arguments(used: Tokens) -> Vec<Tokens> {
    let group = used.get(1..).unwrap_or_default();
    match &group[..group_end(group)] {
        [open, inside @ .., close] if open == "(" && close == ")" => split(inside),
        _ => Vec::new(),
    }
}

fn is_name(token: &str) -> bool {
    token.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !token.starts_with(|c: char| c.is_ascii_digit())
}

/// The Rust type and the bytes of a number.
fn number(kind: &str) -> Option<(&'static str, usize)> {
    Some(match kind {
        "bf16" => ("half::bf16", 2),
        "float" => ("f32", 4),
        "int" => ("i32", 4),
        "uint8_t" => ("u8", 1),
        "uint32_t" => ("u32", 4),
        "uint64_t" => ("u64", 8),
        _ => return None,
    })
}

fn without_comments(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("//") {
        code.push_str(&rest[..at]);
        rest = rest[at..].find('\n').map_or("", |end| &rest[at + end..]);
    }
    code + rest
}

/// Names and numbers, `##`, and single characters.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("##") => 2,
            0 => first.len_utf8(),
            _ => word,
        };
        tokens.push(rest[..length].to_string());
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Tokens up to the end of the bracket that the first one opens; all where it is not closed.
fn group_end(tokens: Tokens) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Tokens of the first statement: up to `;`, or to the end of a body in braces that no `;` follows.
fn statement_end(tokens: Tokens) -> usize {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            ";" => return at + 1,
            "{" => {
                at += group_end(&tokens[at..]);
                if tokens.get(at).is_none_or(|next| next != ";") {
                    return at;
                }
            }
            "(" | "[" => at += group_end(&tokens[at..]),
            _ => at += 1,
        }
    }
    tokens.len()
}

/// The parts between commas outside of brackets.
fn split(tokens: Tokens) -> Vec<Tokens> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        match tokens[at].as_str() {
            "(" | "{" | "[" => at += group_end(&tokens[at..]),
            "," => {
                parts.push(&tokens[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    parts.push(&tokens[start..]);
    parts
}

/// `layer_norm` and `LAYER_NORM` as `LayerNorm`.
fn camel(name: &str) -> String {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..].to_ascii_lowercase();
    name.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

impl Declarations {
    /// A Rust module of them.
    pub fn rust(&self, file: &str) -> String {
        let mut code = format!(
            "/// What `kernels/{file}.cu` declares.\n#[allow(dead_code)]\npub(crate) mod {file} {{\n    use super::*;\n\n"
        );
        self.write(&mut code).expect("a string takes what is written");
        code + "}\n"
    }

    fn write(&self, code: &mut String) -> std::fmt::Result {
        for (name, value) in self.constants.iter().filter(|(_, value)| *value >= 0) {
            writeln!(code, "    pub(crate) const {name}: usize = {value};")?;
        }
        for (name, names) in &self.enumerations {
            let variants: Vec<String> = names.iter().map(|name| camel(name)).collect();
            writeln!(code, "    #[derive(Clone, Copy, Debug, PartialEq, Eq)]")?;
            writeln!(code, "    pub(crate) enum {name} {{ {} }}", variants.join(", "))?;
            writeln!(code, "    impl {name} {{")?;
            let all: Vec<String> = variants.iter().map(|variant| format!("{name}::{variant}")).collect();
            writeln!(code, "        pub(crate) const ALL: &[{name}] = &[{}];\n    }}", all.join(", "))?;
            writeln!(code, "    impl From<{name}> for Argument {{")?;
            writeln!(code, "        fn from(value: {name}) -> Argument {{ Argument::Int(value as i32) }}\n    }}")?;
        }
        for (name, bytes) in &self.records {
            writeln!(code, "    pub(crate) struct {name}([u8; {bytes}]);")?;
        }
        for Signature { name, parameters, kernels } in &self.signatures {
            let kind = camel(name);
            let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            writeln!(code, "    /// The parameters of {}.", names.join(", "))?;
            writeln!(code, "    #[derive(Clone, Copy)]\n    pub(crate) struct {kind} {{")?;
            for (name, kind) in parameters {
                writeln!(code, "        pub(crate) {name}: {},", kind.rust())?;
            }
            writeln!(code, "    }}\n    impl Parameters for {kind} {{")?;
            writeln!(code, "        type Arguments = [Argument; {}];", parameters.len())?;
            let arguments: Vec<String> = parameters.iter().map(|(name, kind)| kind.argument(name)).collect();
            writeln!(code, "        fn arguments(self) -> Self::Arguments {{ [{}] }}\n    }}", arguments.join(", "))?;
            for Kernel { name, threads, blocks } in kernels {
                let constant = name.to_ascii_uppercase();
                writeln!(
                    code,
                    "    pub(crate) const {constant}: Kernel<{kind}> = Kernel::new({name:?}, {threads}, {blocks});"
                )?;
            }
        }
        Ok(())
    }
}

/// The C header of the kernels in all of `files`, for programs that launch them by the driver API: parameters, threads, constants,
/// and each kernel's contract, which is the comment above it in `sources`.
pub fn c_header(files: &[(&str, Declarations)], sources: &BTreeMap<String, String>) -> String {
    let mut code = HEADER_START.to_string();
    for (file, declared) in files {
        declared.write_c(file, sources, &mut code).expect("a string takes what is written");
    }
    code + "\n#endif\n"
}

const HEADER_START: &str = "\
/* What the CUDA kernels of Perennial take, for programs that launch them by the driver API. Their code lies beside this file:
   FILE.sm_80.cubin, FILE.sm_90a.cubin, and FILE.compute_80.ptx for GPUs that neither is for. Matrices are row-major, bf16 the
   upper half of an IEEE float. A kernel does what the comment above its parameters says, and no launch may break it: what
   the comment fixes (grid, threads, shared memory, sizes) is not checked. */
#ifndef PERENNIAL_KERNELS_H
#define PERENNIAL_KERNELS_H

#include <stdint.h>

typedef uint64_t perennial_address; /* CUdeviceptr */
typedef struct { uint64_t words[16]; } __attribute__((aligned(64))) perennial_tensor_map; /* CUtensorMap */
";

/// The comment right above the declaration of a kernel, or of the macro that declares several, in whichever source has it.
fn contract<'a>(name: &str, sources: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    let declares = |line: &str| {
        let words = tokens(line);
        let of_macro = line.starts_with(&format!("#define {name}("));
        of_macro || (words.first().is_some_and(|word| word == "KERNEL") && words.iter().any(|word| word == name))
    };
    for source in sources.values() {
        let lines: Vec<&str> = source.lines().collect();
        let Some(at) = lines.iter().position(|line| declares(line)) else { continue };
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("//"));
        let mut comment: Vec<&str> = above.map(|line| line[2..].trim_end()).collect();
        comment.reverse();
        return comment;
    }
    Vec::new()
}

impl Declarations {
    fn write_c(&self, file: &str, sources: &BTreeMap<String, String>, code: &mut String) -> std::fmt::Result {
        writeln!(code, "\n/* ---- {file}.cu */\n")?;
        let prefix = format!("PERENNIAL_{}", file.to_ascii_uppercase());
        for (name, value) in &self.constants {
            writeln!(code, "#define {prefix}_{name} {value}")?;
        }
        for (name, names) in &self.enumerations {
            let all: Vec<String> = names.iter().map(|one| format!("{prefix}_{name}_{one}")).collect();
            writeln!(code, "enum perennial_{file}_{name} {{ {} }};", all.join(", "))?;
        }
        for Signature { name, parameters, kernels } in &self.signatures {
            let (kind, count) = (name.to_ascii_lowercase(), parameters.len());
            let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            writeln!(code, "\n/* {}", names.join(", "))?;
            let mut told = contract(name, sources);
            // Kernels that share their parameters by chance have a comment each.
            for kernel in kernels.iter().filter(|kernel| kernel.name != *name) {
                let own = contract(&kernel.name, sources);
                told.extend(own.iter().any(|line| !line.trim().is_empty()).then_some("").into_iter().chain(own));
            }
            for line in told {
                writeln!(code, "  {}", line.replace("*/", "* /"))?;
            }
            writeln!(code, "*/\nstruct perennial_{kind} {{")?;
            for (name, kind) in parameters {
                let (kind, note) = kind.c(file);
                writeln!(code, "    {kind} {name};{note}")?;
            }
            writeln!(code, "}};")?;
            for Kernel { name, threads, .. } in kernels {
                writeln!(code, "#define PERENNIAL_{}_THREADS {threads}", name.to_ascii_uppercase())?;
            }
            writeln!(code, "/* What cuLaunchKernel takes as kernelParams. */")?;
            writeln!(
                code,
                "static inline void perennial_{kind}_arguments(struct perennial_{kind} *parameters, void *arguments[{count}]) {{"
            )?;
            for (at, (name, _)) in parameters.iter().enumerate() {
                writeln!(code, "    arguments[{at}] = &parameters->{name};")?;
            }
            writeln!(code, "}}")?;
        }
        Ok(())
    }
}

impl Kind {
    /// The type in C, and a comment for what the type does not say.
    fn c(&self, file: &str) -> (&'static str, String) {
        match self {
            Kind::Int => ("int32_t", String::new()),
            Kind::Long => ("int64_t", String::new()),
            Kind::Flag => ("int32_t", " /* 0 or 1 */".to_string()),
            Kind::Unsigned => ("uint32_t", String::new()),
            Kind::Float => ("float", String::new()),
            Kind::TensorMap => ("perennial_tensor_map", String::new()),
            Kind::Enumeration(name) => ("int32_t", format!(" /* enum perennial_{file}_{name} */")),
            Kind::Pointer { to, nullable } => {
                ("perennial_address", format!(" /* {to}{} */", if *nullable { ", or 0" } else { "" }))
            }
        }
    }

    fn rust(&self) -> String {
        match self {
            Kind::Int | Kind::Long => "usize".to_string(),
            Kind::Flag => "bool".to_string(),
            Kind::Unsigned => "u32".to_string(),
            Kind::Float => "f32".to_string(),
            Kind::TensorMap => "TensorMap".to_string(),
            Kind::Enumeration(name) => name.clone(),
            Kind::Pointer { to, nullable } => {
                let pointer = format!("Pointer<{}>", number(to).map_or(to.as_str(), |(name, _)| name));
                if *nullable { format!("Option<{pointer}>") } else { pointer }
            }
        }
    }

    fn argument(&self, name: &str) -> String {
        match self {
            Kind::Long => format!("Argument::long(self.{name})"),
            _ => format!("Argument::from(self.{name})"),
        }
    }
}

#[cfg(test)]
impl Declarations {
    /// Each kernel with the bytes of its parameters, and whether they are pointers.
    pub fn kernels(&self) -> Vec<(&str, Vec<(usize, bool)>)> {
        let sizes = |kind: &Kind| match kind {
            Kind::Int | Kind::Flag | Kind::Unsigned | Kind::Float | Kind::Enumeration(_) => (4, false),
            Kind::Long => (8, false),
            Kind::TensorMap => (128, false),
            Kind::Pointer { .. } => (8, true),
        };
        let of =
            |signature: &'_ Signature| signature.parameters.iter().map(|(_, kind)| sizes(kind)).collect::<Vec<_>>();
        let all = self
            .signatures
            .iter()
            .flat_map(|signature| signature.kernels.iter().map(move |kernel| (signature, kernel)));
        all.map(|(signature, kernel)| (kernel.name.as_str(), of(signature))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(source: &str) -> Result<Declarations, String> {
        read("one.cu", &BTreeMap::from([("one.cu".to_string(), source.to_string())]))
    }

    #[test]
    fn a_kernel_becomes_a_struct_and_a_constant() {
        let source = "// KERNEL(1, 1, in_a_comment, what x)\n\
                      constexpr int TILE = 4 * (8 + 8), OTHER = TILE / 3;\n\
                      template <int DIM>\nconstexpr int WIDE = DIM;\n\
                      struct alignas(16) Record { float a, b; uint32_t c; };\n\
                      enum class Mode : int { ONE, AND_TWO };\n\
                      DEVICE int helper(int x) { return x + 1; }\n\
                      KERNEL(2 * TILE, 3, a_kernel, const Record* from, NULLABLE bf16* to, Flag add, Mode mode,\n\
                      int64_t count) { int rows; }\n\
                      #define PAIR(name, TILE_N) \\\n    KERNEL(TILE_N, 1, pair_##name, const float* x, int n) { x[n]; }\n\
                      PAIR(one, 32)\nPAIR(two, 64)\n\
                      KERNEL(96, 1, three, const float* x, int n) {}\n";
        let code = read_one(source).unwrap().rust("one");
        for line in [
            "pub(crate) const TILE: usize = 64;",
            "pub(crate) const OTHER: usize = 21;",
            "pub(crate) enum Mode { One, AndTwo }",
            "pub(crate) struct Record([u8; 16]);",
            "pub(crate) from: Pointer<Record>,",
            "pub(crate) to: Option<Pointer<half::bf16>>,",
            "pub(crate) add: bool,",
            "pub(crate) mode: Mode,",
            "pub(crate) count: usize,",
            "pub(crate) const A_KERNEL: Kernel<AKernel> = Kernel::new(\"a_kernel\", 128, 3);",
            "pub(crate) const PAIR_ONE: Kernel<Pair> = Kernel::new(\"pair_one\", 32, 1);",
            "pub(crate) const PAIR_TWO: Kernel<Pair> = Kernel::new(\"pair_two\", 64, 1);",
            "pub(crate) const THREE: Kernel<Pair> = Kernel::new(\"three\", 96, 1);",
        ] {
            assert!(code.contains(line), "no `{line}` in\n{code}");
        }
        assert!(!code.contains("WIDE") && !code.contains("in_a_comment") && !code.contains("helper"), "{code}");
    }

    #[test]
    fn a_kernel_becomes_a_struct_of_c_with_its_contract() {
        let source = "enum class Mode : int { ONE, TWO };\n// Not this.\n\n// y = x. One block.\n// Floor: none.\n\
                      KERNEL(64, 1, a_kernel, const bf16* x, NULLABLE float* y, Mode mode) {}\n";
        let sources = BTreeMap::from([("one.cu".to_string(), source.to_string())]);
        let code = c_header(&[("one", read("one.cu", &sources).unwrap())], &sources);
        let expected = "/* a_kernel\n   y = x. One block.\n   Floor: none.\n*/\nstruct perennial_a_kernel {\n    \
                        perennial_address x; /* bf16 */\n    perennial_address y; /* float, or 0 */\n    \
                        int32_t mode; /* enum perennial_one_Mode */\n};\n#define PERENNIAL_A_KERNEL_THREADS 64\n";
        assert!(code.contains(expected), "{code}");
        for part in [
            "enum perennial_one_Mode { PERENNIAL_ONE_Mode_ONE, PERENNIAL_ONE_Mode_TWO };",
            "arguments[2] = &parameters->mode;",
        ] {
            assert!(code.contains(part), "{code}");
        }
        assert!(!code.contains("Not this"), "{code}");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (source, expected) in [
            ("KERNEL(32, 1, odd, double x) {}", "odd: what is `double x`?"),
            ("KERNEL(THREADS, 1, odd, int x) {}", "odd: THREADS is no known number"),
            ("KERNEL(32) {}", "has no threads, blocks and name"),
            ("enum class Odd : int { A = 2 };", "A=2 of enum Odd"),
            ("#define TWO(a, b) KERNEL(32, 1, a, int b) {}\nTWO(one)", "TWO takes 2 arguments, not 1"),
        ] {
            let error = read_one(source).unwrap_err();
            assert!(error.starts_with("kernels/one.cu: ") && error.contains(expected), "{error}");
        }
    }
}
