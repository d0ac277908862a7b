// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which modules there are, and their parameters as the command line and `modprobe` give them.

use bsp::cmdline::{self, Param};

use super::{memblock, meminit, page_alloc, slub, torture};
use crate::test_vmalloc;

/// Most parameters of a module.
pub const MAX_PARAMETERS: usize = 8;

/// A value for each parameter of a module, in its order.
pub type Values = [u64; MAX_PARAMETERS];

/// A module.
#[derive(Debug)]
pub struct Module {
    /// As Linux calls it.
    pub name: &'static str,
    /// Names of parameters, and what they are if they are not given; at most [`MAX_PARAMETERS`].
    pub parameters: &'static [(&'static str, u64)],
    /// Runs it, or as much of it as there is time until the function says that it is enough; tells what it finds on the
    /// console, and why it failed.
    pub run: fn(&Values, &mut dyn FnMut() -> bool) -> Result<(), &'static str>,
}

static MODULES: [Module; 6] = [
    test_vmalloc::MODULE,
    meminit::MODULE,
    slub::MODULE,
    Module {
        name: "memblock",
        parameters: &[],
        run: |_, enough| super::ktap::run("memblock", &memblock::CASES, enough),
    },
    page_alloc::MODULE,
    torture::MODULE,
];

impl Module {
    /// What the parameters are if none is given.
    #[must_use]
    pub fn defaults(&self) -> Values {
        let mut values = [0; MAX_PARAMETERS];
        for (value, (_, default)) in values.iter_mut().zip(self.parameters) {
            *value = *default;
        }
        values
    }

    /// Sets a parameter; `false` if there is none of that name, or the value is no number (0x for hexadecimal) and no
    /// `y` or `n`.
    pub fn set(&self, values: &mut Values, key: &str, value: &str) -> bool {
        let number = match value {
            "y" | "Y" => Some(1),
            "n" | "N" => Some(0),
            _ => cmdline::parse_number(value),
        };
        let slot = values.iter_mut().zip(self.parameters).find(|(_, (name, _))| *name == key);
        match (slot, number) {
            (Some((slot, _)), Some(number)) => {
                *slot = number;
                true
            }
            _ => false,
        }
    }

    /// What of a command line is for this module: the parameter's name behind the dot, or nothing for the bare name.
    fn own<'a>(&self, param: &Param<'a>) -> Option<&'a str> {
        let rest = param.key.strip_prefix(self.name)?;
        match rest.strip_prefix('.') {
            Some(key) => Some(key),
            None => (rest.is_empty() && param.value.is_none()).then_some(""),
        }
    }

    fn takes(&self, values: &mut Values, param: &Param<'_>) -> bool {
        match (self.own(param), param.value) {
            (Some(""), None) => true,
            (Some(key), Some(value)) => self.set(values, key, value),
            _ => false,
        }
    }
}

/// All modules.
pub fn all() -> impl Iterator<Item = &'static Module> {
    MODULES.iter()
}

/// The module of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Module> {
    all().find(|module| module.name == name)
}

/// Whether a parameter of the command line is for a module, and has sense.
#[must_use]
pub fn accepts(param: &Param<'_>) -> bool {
    all().any(|module| module.takes(&mut module.defaults(), param))
}

/// The modules that a command line asks for, with their parameters.
pub fn requested(text: &str) -> impl Iterator<Item = (&'static Module, Values)> {
    all().filter_map(move |module| {
        let mut values = module.defaults();
        let nr_taken = cmdline::params(text).filter(|param| module.takes(&mut values, param)).count();
        (nr_taken > 0).then_some((module, values))
    })
}
