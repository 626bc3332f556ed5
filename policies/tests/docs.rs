//! Every policy that the docs show is one that is understood.
#![allow(clippy::unwrap_used, missing_docs)]

#[test]
fn the_examples_are_read() {
    for page in ["docs/policies.md", "README.md"] {
        let path = format!("{}/../{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let examples: Vec<&str> =
            text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!examples.is_empty(), "{page}");
        for example in examples {
            let read =
                policies::file::read(example).unwrap_or_else(|error| panic!("{page}: {error}\n{example}"));
            assert_eq!(read.len(), 1);
        }
    }
}
