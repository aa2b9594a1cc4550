//! Parts of the documentation that are made of the code.

use std::fs;
use std::path::Path;

/// Holds that the part of a page between `<!-- NAME: begin -->` and `<!-- NAME: end -->` is what the code
/// says. With `OFFRAMP_WRITE_DOCS=1` it writes that part instead.
///
/// # Panics
/// The part differs, or is not there.
pub fn assert_generated(page: &Path, name: &str, wanted: &str) {
    let text = fs::read_to_string(page).expect("the page can be read");
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (head, rest) = text.split_once(&begin).expect("the part begins");
    let (found, tail) = rest.split_once(&end).expect("the part ends");
    if found != wanted && std::env::var("OFFRAMP_WRITE_DOCS").is_ok_and(|value| value == "1") {
        fs::write(page, format!("{head}{begin}{wanted}{end}{tail}")).expect("the page can be written");
        return;
    }
    assert_eq!(
        found,
        wanted,
        "{}: try: OFFRAMP_WRITE_DOCS=1 cargo test --workspace --lib of_the_documentation",
        page.display()
    );
}
