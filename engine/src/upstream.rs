//! Where the plain leg goes.

use crate::config::Backend;

/// The backend of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its address.
    pub backend: Backend,
}

impl Upstream {
    /// Where the next plain leg is to be connected to.
    #[must_use]
    pub fn address(&self) -> &Backend {
        &self.backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_backend_and_it_is_the_address() {
        let backend = Backend::Unix("/run/backend.sock".into());
        assert_eq!(Upstream { backend: backend.clone() }.address(), &backend);
    }
}
