//! The `sdp-types` crate reads the same from a document as we do, before and after it was rewritten.

use offramp_sdp::{Document, Line, Local, PathRule, Section, Setup};
use sdp_types::{Attribute, Media, Session};

use crate::samples::{CORE, phone, plain, tls};

pub(crate) fn compare(bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    let ours = Document::parse(bytes).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let theirs = Session::parse(bytes).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(ours.sections().len(), theirs.medias.len(), "{shown}");
    compare_attributes(ours.session(), &theirs.attributes);
    for (ours, theirs) in ours.sections().iter().zip(&theirs.medias) {
        compare_media(ours, theirs);
    }
}

fn compare_media(ours: &Section, theirs: &Media) {
    let line = ours.media();
    assert_eq!((line.media(), line.port(), line.count()), (&*theirs.media, theirs.port, theirs.num_ports));
    assert_eq!(line.proto(), theirs.proto);
    assert_eq!(line.formats().collect::<Vec<_>>().join(" "), theirs.fmt);
    let addresses = ours.lines().iter().filter_map(|line| line.value_of(b'c'));
    let addresses: Vec<_> = addresses.map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    let expected = theirs.connections.iter().map(|connection| {
        format!("{} {} {}", connection.nettype, connection.addrtype, connection.connection_address)
    });
    assert_eq!(addresses, expected.collect::<Vec<_>>());
    compare_attributes(ours.lines(), &theirs.attributes);
}

fn compare_attributes(ours: &[Line], theirs: &[Attribute]) {
    let ours: Vec<&Line> = ours.iter().filter(|line| line.value_of(b'a').is_some()).collect();
    assert_eq!(ours.len(), theirs.len());
    for (line, attribute) in ours.iter().zip(theirs) {
        let value = line.attribute(&attribute.attribute);
        assert_eq!(value, Some(attribute.value.as_deref().unwrap_or_default().as_bytes()));
    }
}

#[test]
fn samples_mean_the_same_to_sdp_types() {
    // sdp-types does not know unknown types of lines.
    for text in [phone().replace("x=kept\r\n", ""), CORE.to_owned()] {
        compare(text.as_bytes());
        for local in [plain(), tls(), Local { path: PathRule::Keep, setup: Some(Setup::Passive), ..tls() }] {
            let mut document = Document::parse(text.as_bytes()).unwrap();
            for index in 0..document.sections().len() {
                document.rewrite(index, &local).unwrap();
            }
            compare(&document.to_bytes());
        }
    }
}
