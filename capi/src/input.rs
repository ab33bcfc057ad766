//! What callers hand in and get back: structs of any version, and texts.

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;

use crate::status::{Failure, Outcome, Status};

/// No struct of any version is longer; a size beyond it was never written.
const LONGEST: usize = 4096;

/// A struct that is read as its bytes.
///
/// # Safety
///
/// It is `repr(C)`, and all its fields are numbers, raw pointers and optional functions, so that zeros make one, and so
/// do the bytes of any that a caller made.
pub unsafe trait Plain: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// Its size in the first version of the interface.
    const FIRST_SIZE: usize;
}

/// A struct that begins with its size as the caller knows it.
///
/// # Safety
///
/// Its first field is a `usize`.
pub unsafe trait Versioned: Plain {}

/// Implements [`Plain`] and [`Versioned`] for structs of which there is one version.
macro_rules! versioned {
    ($($type:ty = $name:literal),+ $(,)?) => {
        $(
            // SAFETY: a look at the struct shows it: numbers, raw pointers and optional functions, the size first.
            unsafe impl $crate::input::Plain for $type {
                const NAME: &'static str = $name;
                const FIRST_SIZE: usize = size_of::<$type>();
            }
            const _: () = assert!(std::mem::offset_of!($type, size) == 0);
            // SAFETY: the line above, and the compiler that takes `size` for a `usize` where it is read.
            unsafe impl $crate::input::Versioned for $type {}
        )+
    };
}
pub(crate) use versioned;

/// Reads a struct of the caller. Fields that the caller's version lacks are zero.
///
/// # Safety
///
/// `from` is NULL or points to a size, and to as many readable bytes as it says.
pub unsafe fn read_struct<T: Versioned>(from: *const T) -> Outcome<T> {
    // SAFETY: the caller promises a size there.
    let size = unsafe { size_at(from) }?;
    // SAFETY: the caller promises as many bytes.
    unsafe { read_plain(from, size) }
}

/// The size that a struct of the caller begins with.
///
/// # Safety
///
/// `from` is NULL or points to a size.
unsafe fn size_at<T: Versioned>(from: *const T) -> Outcome<usize> {
    if from.is_null() {
        return Err(Failure::null(T::NAME));
    }
    // SAFETY: the caller promises a size there, whatever its alignment.
    Ok(unsafe { from.cast::<usize>().read_unaligned() })
}

/// Reads a struct of which the caller has `size` bytes.
///
/// # Safety
///
/// `from` points to `size` readable bytes.
pub unsafe fn read_plain<T: Plain>(from: *const T, size: usize) -> Outcome<T> {
    check_size::<T>(size)?;
    let known = size.min(size_of::<T>());
    for at in known..size {
        // SAFETY: `at` is below the `size` that the caller promises.
        if unsafe { from.cast::<u8>().add(at).read() } != 0 {
            let message = format!("{} has fields that this library does not know, and they are not zero", T::NAME);
            return Err(Failure::new(Status::WrongSize, message));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable, as the caller promises, and no more than the value has.
    unsafe { from.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known) };
    // SAFETY: zeros and the caller's bytes make a value of such a struct, as its `Plain` promises.
    Ok(unsafe { value.assume_init() })
}

/// Writes as much of `value` to a struct of the caller as that one has, and how many bytes these are to its size.
///
/// # Safety
///
/// `to` is NULL or points to a size, and to as many writable bytes as it says.
pub unsafe fn write_struct<T: Versioned>(to: *mut T, value: T) -> Outcome {
    // SAFETY: the caller promises a size there.
    let size = unsafe { size_at(to) }?;
    check_size::<T>(size)?;
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are writable, as the caller promises, and no more than `value` has.
    unsafe { (&raw const value).cast::<u8>().copy_to_nonoverlapping(to.cast(), known) };
    // SAFETY: the size lies there, whatever its alignment.
    unsafe { to.cast::<usize>().write_unaligned(known) };
    Ok(())
}

fn check_size<T: Plain>(size: usize) -> Outcome {
    if (T::FIRST_SIZE..=LONGEST).contains(&size) {
        return Ok(());
    }
    let expected = format!("{} bytes, or what a newer header says", size_of::<T>());
    Err(Failure::new(Status::WrongSize, format!("size of {}: expected {expected}, got {size}", T::NAME)))
}

/// Reads a NUL-terminated text.
///
/// # Safety
///
/// `text` is NULL or points to bytes of which one is NUL, and which nobody changes while `'a` lasts.
pub unsafe fn read_text<'a>(text: *const c_char, what: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(Failure::null(what));
    }
    // SAFETY: the caller promises a NUL and that nobody writes.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|fault| not_utf8(what, fault))
}

/// Reads a text of `size` bytes.
///
/// # Safety
///
/// `text` is NULL or points to `size` bytes, which nobody changes while `'a` lasts.
pub unsafe fn read_bytes<'a>(text: *const c_char, size: usize, what: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return if size == 0 { Ok("") } else { Err(Failure::null(what)) };
    }
    if size > isize::MAX as usize {
        return Err(Failure::new(Status::WrongSize, format!("{what} has {size} bytes, more than memory has")));
    }
    // SAFETY: the caller promises so many bytes and that nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), size) };
    std::str::from_utf8(bytes).map_err(|fault| not_utf8(what, fault))
}

fn not_utf8(what: &str, fault: std::str::Utf8Error) -> Failure {
    Failure::new(Status::NotUtf8, format!("{what}: {fault}"))
}

/// A text as a caller gets it: its bytes and a NUL, whatever NULs are among them.
pub fn with_nul(text: &str) -> CString {
    // SAFETY: what reads it by its length sees all of it, and what reads it up to a NUL ends at the last one at latest.
    unsafe { CString::from_vec_unchecked(text.as_bytes().to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Now {
        size: usize,
        first: u32,
        second: u32,
        later: u64,
    }

    // SAFETY: numbers.
    unsafe impl Plain for Now {
        const NAME: &'static str = "now";
        const FIRST_SIZE: usize = 16;
    }
    // SAFETY: the size is first.
    unsafe impl Versioned for Now {}

    /// As a caller with a newer header has it.
    #[repr(C)]
    struct Newer {
        now: Now,
        unknown: u64,
    }

    fn read(from: &Now) -> Outcome<Now> {
        // SAFETY: `from` is a whole struct, and the sizes in this test are no larger, but where they are refused.
        unsafe { read_struct(from) }
    }

    #[test]
    fn structs_of_older_and_newer_callers_are_read() {
        let whole = Now { size: 24, first: 1, second: 2, later: 3 };
        assert_eq!(read(&whole).unwrap(), whole);
        let older = Now { size: 16, ..whole };
        assert_eq!(read(&older).unwrap(), Now { later: 0, ..older }, "what an older header lacks is zero");
        let newer = |unknown| Newer { now: Now { size: size_of::<Newer>(), ..whole }, unknown };
        // SAFETY: the struct has as many bytes as its size says.
        let of_newer = |from: &Newer| unsafe { read_struct((&raw const *from).cast::<Now>()) };
        assert_eq!(of_newer(&newer(0)).unwrap().later, 3);
        assert_eq!(of_newer(&newer(1)).unwrap_err().status, Status::WrongSize);
        for size in [0, 1, 15, LONGEST + 1, usize::MAX] {
            let failure = read(&Now { size, ..whole }).unwrap_err();
            assert_eq!(failure.status, Status::WrongSize);
            assert_eq!(
                failure.message,
                format!("size of now: expected 24 bytes, or what a newer header says, got {size}")
            );
        }
    }

    #[test]
    fn as_much_is_written_as_the_caller_has() {
        let value = Now { size: 0, first: 1, second: 2, later: 3 };
        let mut older = Now { size: 16, first: 0, second: 0, later: 77 };
        // SAFETY: the struct has as many bytes as its size says.
        unsafe { write_struct(&mut older, value) }.unwrap();
        assert_eq!(older, Now { size: 16, first: 1, second: 2, later: 77 });
        let mut newer = Newer { now: Now { size: size_of::<Newer>(), ..older }, unknown: 9 };
        // SAFETY: the struct has as many bytes as its size says.
        unsafe { write_struct((&raw mut newer).cast::<Now>(), value) }.unwrap();
        assert_eq!((newer.now, newer.unknown), (Now { size: 24, ..value }, 9), "the size tells what was written");
    }

    #[test]
    fn texts_are_utf8() {
        // SAFETY: all of them end with a NUL, or have as many bytes.
        let (text, odd, bytes, none) = unsafe {
            (
                read_text(c"caf\xc3\xa9".as_ptr(), "text"),
                read_text(c"a\xff".as_ptr(), "text"),
                read_bytes(b"a\0b".as_ptr().cast(), 3, "text"),
                read_bytes(std::ptr::null(), 0, "text"),
            )
        };
        assert_eq!((text.unwrap(), bytes.unwrap(), none.unwrap()), ("café", "a\0b", ""));
        assert_eq!(odd.unwrap_err().message, "text: invalid utf-8 sequence of 1 bytes from index 1");
        assert_eq!(with_nul("a\0b").as_bytes_with_nul(), b"a\0b\0");
    }
}
