//! What lies in the place of a shard and is none: compressed files, web pages, pointers.

/// What the first bytes of a file say that it is, where that is no tar file, and what to do about it. `name` is the file's.
pub(crate) fn recognise(start: &[u8], name: &str) -> Option<String> {
    let compressed = |with: &str, unpack: &str| {
        format!(
            "the shard is compressed with {with}; pictures are read where they stand, so unpack it to a plain .tar ({unpack} '{name}')"
        )
    };
    let packed = |with: &str, unpack: &str| {
        format!("this is {with}, and a shard is a plain .tar: unpack it ({unpack} '{name}') and name the .tar in it")
    };
    Some(match start {
        [0x1f, 0x8b, ..] => compressed("gzip", "gunzip -k"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => compressed("bzip2", "bunzip2 -k"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => compressed("xz", "unxz -k"),
        [0x5d, 0, 0, _, _, 0xff, 0xff, ..] => compressed("lzma", "unlzma -k"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => compressed("zstd", "unzstd"),
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => compressed("lz4", "unlz4"),
        [0x1f, 0x9d, ..] => compressed("compress", "uncompress -k"),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => packed("a zip archive", "unzip"),
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => packed("a 7z archive", "7z x"),
        [b'R', b'a', b'r', b'!', 0x1a, 7, ..] => packed("a rar archive", "unrar x"),
        [b'P', b'A', b'R', b'1', ..] => {
            "this is a Parquet table and no shard: name the .tar files alone, as in *.tar".to_string()
        }
        _ if start.starts_with(b"version https://git-lfs") => {
            "this is a pointer of Git LFS, and the shard itself is not here: get it by 'git lfs pull'".to_string()
        }
        _ if is_page(start) => {
            "this is a web page and no shard: what was downloaded is an answer in words; download it again".to_string()
        }
        _ => return None,
    })
}

/// Whether a file begins as HTML or XML does.
fn is_page(start: &[u8]) -> bool {
    let text: Vec<u8> = start.iter().copied().skip_while(|byte| byte.is_ascii_whitespace() || *byte > 0x7f).collect();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()));
    ["<!doctype", "<html", "<?xml", "<head", "<error"].into_iter().any(begins)
}
