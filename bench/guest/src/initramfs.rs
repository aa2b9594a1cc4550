//! An initramfs in the format `newc` of cpio (Documentation/driver-api/early-userspace/buffer-format.rst):
//! files of this machine at the paths that they have here, with the symbolic links on the way to them and the
//! shared libraries that they need.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Symbolic links that lead to one another go no further than this.
const LINKS_MAX: usize = 40;

/// What will be in the root. The order of the map puts each directory before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    Link(PathBuf),
    /// A file of this machine.
    Copy(PathBuf),
    Text(Vec<u8>),
}

impl Initramfs {
    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, path: &Path) {
        for above in path.ancestors() {
            self.entries.entry(above.to_owned()).or_insert(Entry::Directory);
        }
    }

    /// A program's text, or the text of a file.
    pub(crate) fn text(&mut self, path: &Path, text: impl Into<Vec<u8>>) {
        self.directory(path.parent().unwrap_or(path));
        self.entries.insert(path.to_owned(), Entry::Text(text.into()));
    }

    /// A file, or a directory with all that is in it, at its own path; shared libraries come with it.
    pub(crate) fn copy(&mut self, path: &Path) -> Result<(), String> {
        let Some(real) = self.follow(path, LINKS_MAX)? else { return Ok(()) };
        if real.is_dir() {
            let entries = fs::read_dir(&real).map_err(|error| format!("{}: {error}", real.display()))?;
            return entries.flatten().try_for_each(|entry| self.copy(&entry.path()));
        }
        for library in libraries(&real)? {
            self.copy(&library)?;
        }
        Ok(())
    }

    /// Puts in what is at this path: directories and links on the way, and itself. Gives the path without
    /// links, unless it was there before.
    fn follow(&mut self, path: &Path, links: usize) -> Result<Option<PathBuf>, String> {
        let failed = |at: &Path, error: io::Error| format!("{}: {error}", at.display());
        let mut real = PathBuf::from("/");
        let mut parts = path.components();
        while let Some(part) = parts.next() {
            match part {
                Component::Normal(name) => real.push(name),
                Component::ParentDir => drop(real.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            }
            let kind = fs::symlink_metadata(&real).map_err(|error| failed(&real, error))?.file_type();
            if kind.is_symlink() {
                let to = fs::read_link(&real).map_err(|error| failed(&real, error))?;
                let links = links.checked_sub(1).ok_or_else(|| format!("{}: a loop", path.display()))?;
                self.entries.insert(real.clone(), Entry::Link(to.clone()));
                real.pop();
                return self.follow(&real.join(to).join(parts.as_path()), links);
            }
            if kind.is_file() && self.entries.insert(real.clone(), Entry::Copy(real.clone())).is_some() {
                return Ok(None);
            }
            if kind.is_dir() {
                self.directory(&real);
            }
        }
        Ok(Some(real))
    }

    /// Writes it all out.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1..).zip(self.entries.iter().filter(|(path, _)| *path != "/")) {
            let (mode, content) = match entry {
                Entry::Directory => (DIRECTORY | 0o755, Vec::new()),
                Entry::Link(target) => (LINK | 0o777, target.as_os_str().as_encoded_bytes().to_vec()),
                Entry::Text(text) => (FILE | 0o755, text.clone()),
                Entry::Copy(of) => (FILE | (of.metadata()?.permissions().mode() & 0o777), fs::read(of)?),
            };
            member(&mut to, number, path, mode, &content)?;
        }
        member(&mut to, 0, Path::new("/TRAILER!!!"), 0, &[])
    }
}

/// Header, name and content, each padded to four bytes.
fn member(to: &mut impl Write, number: u32, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let path = path.as_os_str().as_encoded_bytes();
    let name = path.strip_prefix(b"/").unwrap_or(path);
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
    write!(to, "070701")?;
    // inode, mode, owner, group, links, time, size, device (2), device of a node (2), size of the name, check
    for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(to, "{field:08X}")?;
    }
    to.write_all(name)?;
    // The header has 110 bytes; the name ends with at least one zero.
    to.write_all(&[0; 4][..1 + padding(110 + name.len() + 1)])?;
    to.write_all(content)?;
    to.write_all(&[0; 4][..padding(content.len())])
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// The shared libraries that a program is linked with; none of what is not a dynamic program.
fn libraries(path: &Path) -> Result<Vec<PathBuf>, String> {
    let mut start = [0; 4];
    let is_program = fs::File::open(path).and_then(|mut file| io::Read::read(&mut file, &mut start));
    if is_program.map_err(|error| format!("{}: {error}", path.display()))? < 4 || start != *b"\x7fELF" {
        return Ok(Vec::new());
    }
    let output = Command::new("ldd").arg(path).output().map_err(|error| format!("ldd: {error}"))?;
    Ok(linked(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in what ldd says: `name => /path (address)` or `/path (address)`.
fn linked(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        let (path, _) = line.split_once(" (")?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says_is_read() {
        let said = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibgone.so => not found\n";
        assert_eq!(
            linked(said),
            [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(linked("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn initramfs_copies_links_with_targets_and_parents() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("real/deep")).unwrap();
        fs::write(at("real/deep/file"), b"12345").unwrap();
        std::os::unix::fs::symlink("real/deep", at("short")).unwrap();
        let mut made = Initramfs::default();
        made.copy(&at("short/file")).unwrap();
        made.copy(&at("short/file")).unwrap();
        for path in ["short", "real", "real/deep", "real/deep/file"] {
            assert!(made.entries.contains_key(&at(path)), "{path} is missing: {made:?}");
        }
        assert!(made.copy(&at("absent")).is_err_and(|why| why.contains("absent")));
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(made.copy(&at("circle")).is_err_and(|why| why.contains("a loop")));
    }

    #[test]
    fn members_are_as_the_format_says() {
        let mut made = Initramfs::default();
        made.text(Path::new("/a/bc"), "12345");
        let mut bytes = Vec::new();
        made.write(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<usize> =
            ["a\0", "a/bc\0", "TRAILER!!!\0"].iter().map(|name| text.find(name).unwrap()).collect();
        // Each name stands right behind a header of 110 bytes that begins at a multiple of four.
        assert!(names.iter().all(|at| (at - 110) % 4 == 0 && text[at - 110..].starts_with("070701")));
        assert!(text[names[1]..].starts_with("a/bc\0\0") && text.contains("12345\0\0\x00070701"));
        assert_eq!(text.len() % 4, 0);
    }
}
