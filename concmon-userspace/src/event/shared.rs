//! Events as they are read from captures: lists have an end, and texts that repeat are there once.

use std::{
    cell::RefCell,
    fmt,
    hash::{BuildHasher as _, RandomState},
    marker::PhantomData,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Texts that are remembered, a power of two.
const KNOWN: usize = 1 << 12;
/// The longest text that is remembered, bytes.
const LONGEST: usize = 256;

/// The texts seen last, each in the place that its hash says.
struct Known {
    hasher: RandomState,
    texts: Vec<Option<Arc<str>>>,
}

thread_local! {
    static TEXTS: RefCell<Known> = RefCell::new(Known {
        hasher: RandomState::new(),
        texts: vec![None; KNOWN],
    });
}

/// A text, which may be one that was read before.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Arc<str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Arc<str>, E> {
            Ok(known(text))
        }
    }

    deserializer.deserialize_str(Text)
}

fn known(text: &str) -> Arc<str> {
    if text.len() > LONGEST {
        return text.into();
    }
    TEXTS.with_borrow_mut(|known| {
        let place = known.hasher.hash_one(text) as usize % KNOWN;
        match &mut known.texts[place] {
            Some(same) if **same == *text => Arc::clone(same),
            other => Arc::clone(other.insert(text.into())),
        }
    })
}

/// A list of at most `MOST` elements: a byte in a file may be hundreds in memory.
pub(super) fn at_most<'de, const MOST: usize, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<const MOST: usize, T>(PhantomData<T>);

    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for List<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let said = elements.size_hint().unwrap_or(0);
            if said > MOST {
                return Err(A::Error::invalid_length(said, &self));
            }
            // What is said need not be there.
            let mut list = Vec::with_capacity(said.min(1 << 10));
            while let Some(element) = elements.next_element()? {
                if list.len() >= MOST {
                    return Err(A::Error::invalid_length(list.len() + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List::<MOST, T>(PhantomData))
}
