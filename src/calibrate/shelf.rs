//! Lists of tensors that are all on the device, or in a file from which one item comes when its turn is there.

use std::rc::Rc;

use burn::tensor::{DType, Device, Element, Int, Tensor, TensorData};
use bytemuck::Pod;
use half::f16;

use super::scratch::{Extent, Scratch};
use crate::error::{Error, Result};

/// Where shelves keep what is put on them.
#[derive(Clone)]
pub enum Keeping {
    /// All of it on the device.
    OnDevice,
    /// In a file.
    InFile(Rc<Scratch>),
}

/// A list of items, each of which is put, read and taken by its place.
pub struct Shelf<T> {
    items: ShelfItems<T>,
    device: Device,
}

enum ShelfItems<T> {
    OnDevice(Vec<Option<T>>),
    InFile { scratch: Rc<Scratch>, items: Vec<Option<Vec<StoredTensor>>> },
}

/// Where a tensor lies in a file.
struct StoredTensor {
    extent: Extent,
    dims: Vec<usize>,
    dtype: DType,
}

/// What a [`Shelf`] holds: some tensors, in an order of their own.
pub trait Shelved: Clone {
    /// Hands all tensors on, first to last.
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()>;

    /// The same again, from the tensors in that order.
    fn restore(from: &mut ShelfReader<'_>) -> Result<Self>;
}

impl<T: Shelved> Shelf<T> {
    /// A shelf without an item, from which they come to `device`.
    pub fn new(keeping: &Keeping, device: &Device) -> Shelf<T> {
        let items = match keeping {
            Keeping::OnDevice => ShelfItems::OnDevice(Vec::new()),
            Keeping::InFile(scratch) => ShelfItems::InFile { scratch: scratch.clone(), items: Vec::new() },
        };
        Shelf { items, device: device.clone() }
    }

    /// Puts an item at a place, in that of what was there. Fails where the device does not answer or the disk is full.
    pub fn put(&mut self, at: usize, item: T) -> Result<()> {
        self.remove(at);
        match &mut self.items {
            ShelfItems::OnDevice(items) => *place(items, at) = Some(item),
            ShelfItems::InFile { scratch, items } => {
                let mut writer = ShelfWriter { scratch, stored: Vec::new() };
                item.store(&mut writer)?;
                *place(items, at) = Some(writer.stored);
            }
        }
        Ok(())
    }

    /// Whether there is an item at a place.
    pub fn has(&self, at: usize) -> bool {
        match &self.items {
            ShelfItems::OnDevice(items) => items.get(at).is_some_and(Option::is_some),
            ShelfItems::InFile { items, .. } => items.get(at).is_some_and(Option::is_some),
        }
    }

    /// The item at a place, which stays there; panics where there is none.
    pub fn get(&self, at: usize) -> Result<T> {
        assert!(self.has(at), "nothing was put at {at}");
        match &self.items {
            ShelfItems::OnDevice(items) => Ok(items[at].clone().expect("it is there")),
            ShelfItems::InFile { scratch, items } => {
                let stored = items[at].as_ref().expect("it is there").iter();
                T::restore(&mut ShelfReader { scratch, stored, device: &self.device })
            }
        }
    }

    /// The item at a place, which is empty then; panics where there is none.
    pub fn take(&mut self, at: usize) -> Result<T> {
        let item = self.get(at)?;
        self.remove(at);
        Ok(item)
    }

    fn remove(&mut self, at: usize) {
        match &mut self.items {
            ShelfItems::OnDevice(items) => *place(items, at) = None,
            ShelfItems::InFile { scratch, items } => {
                let stored = place(items, at).take().unwrap_or_default();
                stored.into_iter().for_each(|tensor| scratch.release(tensor.extent));
            }
        }
    }
}

/// A place of a list that grows as it is asked for.
fn place<T>(items: &mut Vec<Option<T>>, at: usize) -> &mut Option<T> {
    if items.len() <= at {
        items.resize_with(at + 1, || None);
    }
    &mut items[at]
}

/// Takes an item's tensors to the file.
pub struct ShelfWriter<'a> {
    scratch: &'a Scratch,
    stored: Vec<StoredTensor>,
}

impl ShelfWriter<'_> {
    /// Stores what is on the host, of one of the types that [`ShelfReader`] reads.
    pub fn data(&mut self, data: &TensorData) -> Result<()> {
        let extent = self.scratch.claim(data.as_bytes().len() as u64);
        self.scratch.write(&extent, data.as_bytes())?;
        self.stored.push(StoredTensor { extent, dims: data.shape().to_vec(), dtype: data.dtype() });
        Ok(())
    }

    /// Stores integers of a device.
    pub fn integers<const D: usize>(&mut self, tensor: &Tensor<D, Int>) -> Result<()> {
        let data = tensor.try_to_data().map_err(|fault| unread(&tensor.device(), fault))?;
        self.data(&data)
    }
}

/// Brings an item's tensors from the file.
pub struct ShelfReader<'a> {
    scratch: &'a Scratch,
    stored: std::slice::Iter<'a, StoredTensor>,
    device: &'a Device,
}

impl ShelfReader<'_> {
    /// Whether no tensor is left.
    pub fn is_at_end(&self) -> bool {
        self.stored.len() == 0
    }

    /// The next tensor, on the host; panics where none is left.
    pub fn data(&mut self) -> Result<TensorData> {
        let stored = self.stored.next().expect("a tensor for each that was stored");
        match stored.dtype {
            DType::F32 => self.read::<f32>(stored),
            DType::F16 => self.read::<f16>(stored),
            DType::I32 => self.read::<i32>(stored),
            DType::U16 => self.read::<u16>(stored),
            other => panic!("{other:?} is not stored"),
        }
    }

    /// The next tensor, of integers.
    pub fn integers<const D: usize>(&mut self) -> Result<Tensor<D, Int>> {
        let data = self.data()?;
        let dtype = data.dtype();
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }

    fn read<E: Element + Pod>(&self, stored: &StoredTensor) -> Result<TensorData> {
        let mut values = vec![E::zeroed(); stored.dims.iter().product()];
        self.scratch.read(&stored.extent, bytemuck::cast_slice_mut(&mut values))?;
        Ok(TensorData::new(values, &stored.dims[..]))
    }
}

impl<const D: usize> Shelved for Tensor<D> {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        let data = self.try_to_data().map_err(|fault| unread(&self.device(), fault))?;
        to.data(&data)
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<Tensor<D>> {
        let data = from.data()?;
        let dtype = data.dtype();
        Ok(Tensor::from_data(data, (from.device, dtype)))
    }
}

impl<T: Shelved, const N: usize> Shelved for [T; N] {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        self.iter().try_for_each(|item| item.store(to))
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<[T; N]> {
        let items: Result<Vec<T>> = (0..N).map(|_| T::restore(from)).collect();
        Ok(items?.try_into().ok().expect("so many were restored"))
    }
}

fn unread(device: &Device, fault: impl std::fmt::Debug) -> Error {
    Error::Device { device: format!("{device:?}"), message: format!("{fault:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::cpu;

    fn shelves() -> (tempfile::TempDir, [Shelf<Tensor<2>>; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&dir.path().join("a.pack")).unwrap();
        let keepings = [Keeping::OnDevice, Keeping::InFile(Rc::new(scratch))];
        (dir, keepings.map(|keeping| Shelf::new(&keeping, &cpu())))
    }

    fn numbers(rows: usize, first: f32) -> Tensor<2> {
        let numbers: Vec<f32> = (0..3 * rows).map(|at| first + at as f32).collect();
        Tensor::from_data(TensorData::new(numbers, [rows, 3]), &cpu())
    }

    #[test]
    fn what_is_put_comes_back_wherever_it_was() {
        let (_dir, shelves) = shelves();
        for mut shelf in shelves {
            shelf.put(2, numbers(2, 0.5)).unwrap();
            shelf.put(0, numbers(1, 7.0)).unwrap();
            assert!(shelf.has(0) && !shelf.has(1) && shelf.has(2) && !shelf.has(3));
            // Of another size than what it replaces, and of the same.
            shelf.put(0, numbers(2, -3.0)).unwrap();
            shelf.put(2, numbers(2, 0.25)).unwrap();
            for (at, first) in [(0, -3.0), (2, 0.25), (2, 0.25)] {
                assert_eq!(shelf.get(at).unwrap().to_data(), numbers(2, first).to_data());
            }
            assert_eq!(shelf.take(0).unwrap().to_data(), numbers(2, -3.0).to_data());
            assert!(!shelf.has(0));
        }
    }

    #[test]
    fn halves_and_integers_stay_what_they_are() {
        let (_dir, [_, mut shelf]) = shelves();
        let halves = numbers(2, 0.1).cast(DType::F16);
        shelf.put(0, halves.clone()).unwrap();
        let back = shelf.get(0).unwrap();
        assert_eq!((back.dtype(), back.to_data()), (DType::F16, halves.to_data()));
    }
}
