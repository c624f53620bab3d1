//! Protocol buffers as they lie on the wire, without any knowledge of the tool's own types.

use anyhow::{Context, Result, bail};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, or a fixed number of 4 or 8 bytes.
    Number(u64),
    /// Text, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// A message: its fields in order, by number.
#[derive(Clone, Debug, Default)]
pub struct Message<'a>(Vec<(u64, Value<'a>)>);

impl<'a> Message<'a> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8)?.try_into()?)),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?)?;
                    Value::Bytes(take(&mut bytes, length)?)
                }
                5 => Value::Number(u32::from_le_bytes(take(&mut bytes, 4)?.try_into()?).into()),
                kind => bail!("wire type {kind}"),
            };
            fields.push((key >> 3, value));
        }
        Ok(Message(fields))
    }

    fn all(&self, field: u64) -> impl Iterator<Item = Value<'a>> {
        self.0
            .iter()
            .filter(move |(number, _)| *number == field)
            .map(|(_, value)| *value)
    }

    /// The last number of a field.
    pub fn number(&self, field: u64) -> Option<u64> {
        self.all(field)
            .filter_map(|value| match value {
                Value::Number(number) => Some(number),
                Value::Bytes(_) => None,
            })
            .last()
    }

    /// All numbers of a repeated field, packed or not.
    ///
    /// # Errors
    /// When the packed ones are damaged.
    pub fn numbers(&self, field: u64) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for value in self.all(field) {
            match value {
                Value::Number(number) => numbers.push(number),
                Value::Bytes(mut bytes) => {
                    while !bytes.is_empty() {
                        numbers.push(varint(&mut bytes)?);
                    }
                }
            }
        }
        Ok(numbers)
    }

    /// The text of a field; empty where there is none.
    ///
    /// # Errors
    /// When it is no text.
    pub fn text(&self, field: u64) -> Result<&'a str> {
        let bytes = self.bytes(field).last().unwrap_or_default();
        Ok(std::str::from_utf8(bytes)?)
    }

    fn bytes(&self, field: u64) -> impl Iterator<Item = &'a [u8]> {
        self.all(field).filter_map(|value| match value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) => None,
        })
    }

    /// The texts of a repeated field.
    ///
    /// # Errors
    /// When one is no text.
    pub fn texts(&self, field: u64) -> Result<Vec<&'a str>> {
        self.bytes(field)
            .map(|bytes| Ok(std::str::from_utf8(bytes)?))
            .collect()
    }

    /// The messages of a field.
    ///
    /// # Errors
    /// When one is none.
    pub fn messages(&self, field: u64) -> Result<Vec<Message<'a>>> {
        self.bytes(field).map(Message::parse).collect()
    }

    /// The message of a field.
    ///
    /// # Errors
    /// When it is none.
    pub fn message(&self, field: u64) -> Result<Option<Message<'a>>> {
        self.bytes(field).last().map(Message::parse).transpose()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).context("it is cut")?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number that does not end")
}
