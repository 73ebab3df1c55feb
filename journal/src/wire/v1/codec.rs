//! How a domain value and its wire form become each other, field by field.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use tephra_domain::ids::{
    AttachmentId, BackendName, CommandId, IdempotencyKey, ImageId, OperationId, PoolName, Position,
    ProjectId, RequestId, SnapshotId, UserId, VolumeId, VolumeTypeId, ZoneName,
};
use tephra_domain::quota::{QuotaLimits, QuotaResource};
use tephra_domain::units::{SizeGib, Timestamp};
use uuid::Uuid;

use crate::wire::Invalid;
use crate::wire::v1::values;

/// A domain value that is `W` on the wire.
pub trait Wire<'a, W>: Sized {
    /// The wire form; borrows what it can.
    fn to_wire(&'a self) -> W;

    /// The value.
    ///
    /// # Errors
    /// If the wire form says something that cannot be.
    fn from_wire(wire: W) -> Result<Self, Invalid>;
}

/// A UUID: its 16 bytes, or its text where people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub [u8; 16]);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(&Uuid::from_bytes(self.0));
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(Self)
    }
}

/// A SHA-256: its 32 bytes, or hexadecimal where people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.serialize_str(&hex::encode(self.0));
        }
        let mut tuple = serializer.serialize_tuple(32)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("32 bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Digest, A::Error> {
                let mut bytes = [0; 32];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(index, &self))?;
                }
                Ok(Digest(bytes))
            }
        }
        deserializer.deserialize_tuple(32, Bytes)
    }
}

/// Keys and values of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Map<'a>(pub Cow<'a, BTreeMap<String, String>>);

/// Declares a frozen struct and its conversions: the fields have the domain's names.
macro_rules! wire_struct {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$lt:lifetime>)? for $domain:ty { $($field:ident: $wire:ty),* $(,)? }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        $(#[serde(bound(deserialize = "'de: 'a"))] #[doc = concat!("Borrows for `", stringify!($lt), "`.")])?
        #[allow(missing_docs, reason = "fields are named as in the domain")]
        pub struct $name $(<$lt>)? { $(pub $field: $wire),* }

        impl<'a> $crate::wire::v1::codec::Wire<'a, $name $(<$lt>)?> for $domain {
            fn to_wire(&'a self) -> $name $(<$lt>)? {
                $name { $($field: $crate::wire::v1::codec::Wire::to_wire(&self.$field)),* }
            }

            fn from_wire(wire: $name $(<$lt>)?) -> Result<Self, $crate::wire::Invalid> {
                Ok(Self { $($field: $crate::wire::v1::codec::Wire::from_wire(wire.$field)?),* })
            }
        }
    )*};
}

/// Declares a frozen enum whose variants hold data, and its conversions. Each variant is given
/// with its number, which is its place: the compiler refuses a list with a hole.
macro_rules! wire_enum {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$lt:lifetime>)? for $domain:ty {
            $($number:literal $variant:ident { $($field:ident: $wire:ty),* } = { $($shape:tt)* };)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        $(#[serde(bound(deserialize = "'de: 'a"))] #[doc = concat!("Borrows for `", stringify!($lt), "`.")])?
        #[allow(missing_docs, reason = "variants and fields are named as in the domain")]
        pub enum $name $(<$lt>)? { $($variant { $($field: $wire),* }),* }

        const _: () = $crate::wire::v1::codec::assert_numbered(&[$($number),*]);

        impl<'a> $crate::wire::v1::codec::Wire<'a, $name $(<$lt>)?> for $domain {
            fn to_wire(&'a self) -> $name $(<$lt>)? {
                match self {
                    $($($shape)* => $name::$variant {
                        $($field: $crate::wire::v1::codec::Wire::to_wire($field)),*
                    },)*
                }
            }

            fn from_wire(wire: $name $(<$lt>)?) -> Result<Self, $crate::wire::Invalid> {
                Ok(match wire {
                    $($name::$variant { $($field),* } => {
                        $(let $field = $crate::wire::v1::codec::Wire::from_wire($field)?;)*
                        $($shape)*
                    })*
                })
            }
        }
    )*};
}

/// Declares a frozen enum without data: one byte on disk, its name where people read.
macro_rules! wire_code {
    ($(
        $(#[$doc:meta])*
        $name:ident for $domain:ident { $($number:literal $variant:ident),* $(,)? }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(pub u8);

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    let name = match self.0 {
                        $($number => stringify!($variant),)*
                        _ => "?",
                    };
                    return serializer.serialize_str(name);
                }
                serializer.serialize_u8(self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u8::deserialize(deserializer).map(Self)
            }
        }

        impl<'a> $crate::wire::v1::codec::Wire<'a, $name> for $domain {
            fn to_wire(&'a self) -> $name {
                $name(match self {
                    $(Self::$variant => $number,)*
                })
            }

            fn from_wire(wire: $name) -> Result<Self, $crate::wire::Invalid> {
                match wire.0 {
                    $($number => Ok(Self::$variant),)*
                    value => Err($crate::wire::Invalid::Value {
                        what: stringify!($domain),
                        value: u64::from(value),
                    }),
                }
            }
        }
    )*};
}

pub(crate) use {wire_code, wire_enum, wire_struct};

/// Stops the compiler at a list of numbers that is not 0, 1, 2, …
pub(crate) const fn assert_numbered(numbers: &[usize]) {
    let mut place = 0;
    while place < numbers.len() {
        assert!(numbers[place] == place, "a variant's number is its place in the list");
        place += 1;
    }
}

macro_rules! as_it_is {
    ($($type:ty),*) => {$(
        impl<'a> Wire<'a, $type> for $type {
            fn to_wire(&'a self) -> $type {
                *self
            }

            fn from_wire(wire: $type) -> Result<Self, Invalid> {
                Ok(wire)
            }
        }
    )*};
}

as_it_is!(bool, u8, u16, u32, u64, i64);

macro_rules! as_uuid {
    ($($type:ty),*) => {$(
        impl<'a> Wire<'a, Id> for $type {
            fn to_wire(&'a self) -> Id {
                Id(self.as_uuid().into_bytes())
            }

            fn from_wire(wire: Id) -> Result<Self, Invalid> {
                Ok(Self::from_uuid(Uuid::from_bytes(wire.0)))
            }
        }
    )*};
}

impl Wire<'_, Id> for Uuid {
    fn to_wire(&self) -> Id {
        Id(self.into_bytes())
    }

    fn from_wire(wire: Id) -> Result<Self, Invalid> {
        Ok(Self::from_bytes(wire.0))
    }
}

as_uuid!(VolumeId, SnapshotId, VolumeTypeId, ImageId, CommandId, OperationId, AttachmentId);

macro_rules! as_text {
    ($read:path: $($type:ty),*) => {$(
        impl<'a> Wire<'a, &'a str> for $type {
            fn to_wire(&'a self) -> &'a str {
                self.as_str()
            }

            fn from_wire(wire: &'a str) -> Result<Self, Invalid> {
                Ok(Self::new($read(wire)))
            }
        }
    )*};
}

as_text!(crate::wire::v1::codec::shared_name: ProjectId, UserId, BackendName, PoolName, ZoneName);
as_text!(Arc::from: RequestId, IdempotencyKey);

/// How many names a thread keeps at hand while it decodes.
const SHARED_NAMES: usize = 256;

thread_local! {
    static NAMES: std::cell::RefCell<Vec<Option<Arc<str>>>> =
        std::cell::RefCell::new(vec![None; SHARED_NAMES]);
}

/// The name, shared with the last equal one: projects, users, zones and pools are few, and stand in
/// every event and every row. Saves most allocations of decoding, and most memory of the state.
fn shared_name(text: &str) -> Arc<str> {
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let slot = usize::try_from(hash).unwrap_or_default() % SHARED_NAMES;
    NAMES.with_borrow_mut(|names| match names.get_mut(slot) {
        Some(Some(name)) if **name == *text => Arc::clone(name),
        Some(place) => Arc::clone(place.insert(Arc::from(text))),
        None => Arc::from(text),
    })
}

impl<'a> Wire<'a, &'a str> for Box<str> {
    fn to_wire(&'a self) -> &'a str {
        self
    }

    fn from_wire(wire: &'a str) -> Result<Self, Invalid> {
        Ok(wire.into())
    }
}

impl<'a> Wire<'a, u32> for SizeGib {
    fn to_wire(&'a self) -> u32 {
        self.gib()
    }

    fn from_wire(wire: u32) -> Result<Self, Invalid> {
        Self::new(wire).ok_or(Invalid::Value { what: "size in GiB", value: u64::from(wire) })
    }
}

impl<'a> Wire<'a, i64> for Timestamp {
    fn to_wire(&'a self) -> i64 {
        self.micros()
    }

    fn from_wire(wire: i64) -> Result<Self, Invalid> {
        Ok(Self(wire))
    }
}

impl<'a> Wire<'a, u64> for Position {
    fn to_wire(&'a self) -> u64 {
        self.0
    }

    fn from_wire(wire: u64) -> Result<Self, Invalid> {
        Ok(Self(wire))
    }
}

impl<'a> Wire<'a, Digest> for [u8; 32] {
    fn to_wire(&'a self) -> Digest {
        Digest(*self)
    }

    fn from_wire(wire: Digest) -> Result<Self, Invalid> {
        Ok(wire.0)
    }
}

impl<'a> Wire<'a, Map<'a>> for BTreeMap<String, String> {
    fn to_wire(&'a self) -> Map<'a> {
        Map(Cow::Borrowed(self))
    }

    fn from_wire(wire: Map<'a>) -> Result<Self, Invalid> {
        Ok(wire.0.into_owned())
    }
}

impl<'a> Wire<'a, Vec<&'a str>> for BTreeSet<ProjectId> {
    fn to_wire(&'a self) -> Vec<&'a str> {
        self.iter().map(ProjectId::as_str).collect()
    }

    fn from_wire(wire: Vec<&'a str>) -> Result<Self, Invalid> {
        wire.into_iter().map(ProjectId::from_wire).collect()
    }
}

impl<'a> Wire<'a, Vec<(values::QuotaResourceV1, i64)>> for QuotaLimits {
    fn to_wire(&'a self) -> Vec<(values::QuotaResourceV1, i64)> {
        self.iter().map(|(resource, limit)| (resource.to_wire(), *limit)).collect()
    }

    fn from_wire(wire: Vec<(values::QuotaResourceV1, i64)>) -> Result<Self, Invalid> {
        wire.into_iter().map(|(resource, limit)| Ok((QuotaResource::from_wire(resource)?, limit))).collect()
    }
}

impl<'a, T: Wire<'a, W>, W> Wire<'a, Option<W>> for Option<T> {
    fn to_wire(&'a self) -> Option<W> {
        self.as_ref().map(T::to_wire)
    }

    fn from_wire(wire: Option<W>) -> Result<Self, Invalid> {
        wire.map(T::from_wire).transpose()
    }
}

impl<'a, T: Wire<'a, W>, W> Wire<'a, Vec<W>> for Vec<T> {
    fn to_wire(&'a self) -> Vec<W> {
        self.iter().map(T::to_wire).collect()
    }

    fn from_wire(wire: Vec<W>) -> Result<Self, Invalid> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<'a, T: Wire<'a, W>, W> Wire<'a, W> for Box<T> {
    fn to_wire(&'a self) -> W {
        (**self).to_wire()
    }

    fn from_wire(wire: W) -> Result<Self, Invalid> {
        T::from_wire(wire).map(Self::new)
    }
}
