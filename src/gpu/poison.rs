//! Fills workgroup memory with numbers that are none before a kernel begins, so that what it reads before it writes it
//! shows in its results.

use naga::{AddressSpace, ArraySize, Barrier, BinaryOperator, Binding, Block, BuiltIn, Expression, Function};
use naga::{FunctionArgument, Handle, Literal, LocalVariable, Module, Scalar, ScalarKind, Span, Statement};
use naga::{Type, TypeInner, UniqueArena};

/// A quiet NaN as f32, and far from anything as a whole number.
pub(super) const POISON: u32 = 0x7fc0_0000;

/// Makes `main` fill all of its workgroup memory first: each array by all invocations together.
pub(super) fn poison(module: &mut Module) {
    let in_workgroup = |space| matches!(space, AddressSpace::WorkGroup);
    let variables: Vec<_> =
        module.global_variables.iter().filter(|(_, variable)| in_workgroup(variable.space)).collect();
    let variables: Vec<_> = variables.into_iter().map(|(handle, variable)| (handle, variable.ty)).collect();
    if variables.is_empty() {
        return;
    }
    let word = module.types.insert(Type { name: None, inner: TypeInner::Scalar(Scalar::U32) }, Span::UNDEFINED);
    let entry = &mut module.entry_points[0];
    let size = entry.workgroup_size_overrides.and_then(|sizes| sizes[0]);
    let workgroup = match size.map(|size| &module.global_expressions[size]) {
        Some(Expression::Override(size)) => Expression::Override(*size),
        _ => Expression::Literal(Literal::U32(entry.workgroup_size[0])),
    };
    let mut filler = Filler::new(&mut entry.function, &module.types, word);
    let (local, workgroup) = (filler.local_index(), filler.add(workgroup));
    let mut block = Block::new();
    let bits = filler.add(Expression::Literal(Literal::U32(POISON)));
    block.push(Statement::Store { pointer: filler.bits, value: bits }, Span::UNDEFINED);
    for (variable, ty) in variables {
        let pointer = filler.add(Expression::GlobalVariable(variable));
        filler.fill(&mut block, pointer, ty, (local, workgroup));
    }
    block.push(Statement::ControlBarrier(Barrier::WORK_GROUP), Span::UNDEFINED);
    block.extend_block(std::mem::take(&mut entry.function.body));
    entry.function.body = block;
}

/// Appends to a function.
struct Filler<'a> {
    function: &'a mut Function,
    types: &'a UniqueArena<Type>,
    /// The type u32.
    word: Handle<Type>,
    /// Where the poison is at run time: a compiler that knew it would refuse it.
    bits: Handle<Expression>,
}

impl<'a> Filler<'a> {
    fn new(function: &'a mut Function, types: &'a UniqueArena<Type>, word: Handle<Type>) -> Filler<'a> {
        let bits = function.local_variables.append(LocalVariable { name: None, ty: word, init: None }, Span::UNDEFINED);
        let bits = function.expressions.append(Expression::LocalVariable(bits), Span::UNDEFINED);
        Filler { function, types, word, bits }
    }

    fn add(&mut self, expression: Expression) -> Handle<Expression> {
        self.function.expressions.append(expression, Span::UNDEFINED)
    }

    /// Adds an expression that is computed there.
    fn emit(&mut self, block: &mut Block, expression: Expression) -> Handle<Expression> {
        let handle = self.add(expression);
        block.push(Statement::Emit(naga::Range::new_from_bounds(handle, handle)), Span::UNDEFINED);
        handle
    }

    /// The invocation's number in its workgroup.
    fn local_index(&mut self) -> Handle<Expression> {
        let binding = Some(Binding::BuiltIn(BuiltIn::LocalInvocationIndex));
        let known = self.function.arguments.iter().position(|argument| argument.binding == binding);
        let at = known.unwrap_or_else(|| {
            self.function.arguments.push(FunctionArgument { name: None, ty: self.word, binding });
            self.function.arguments.len() - 1
        });
        self.add(Expression::FunctionArgument(at as u32))
    }

    /// Fills what lies behind the pointer; of an array, each `stride`th element from `first` on.
    fn fill(
        &mut self,
        block: &mut Block,
        pointer: Handle<Expression>,
        ty: Handle<Type>,
        (first, stride): (Handle<Expression>, Handle<Expression>),
    ) {
        let parts = match &self.types[ty].inner {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => {
                let value = self.number(block, *scalar);
                return block.push(Statement::Store { pointer, value }, Span::UNDEFINED);
            }
            TypeInner::Vector { size, scalar } => {
                let value = self.number(block, *scalar);
                let value = self.emit(block, Expression::Splat { size: *size, value });
                return block.push(Statement::Store { pointer, value }, Span::UNDEFINED);
            }
            TypeInner::Array { base, size, .. } => {
                return self.fill_array(block, (pointer, *base), *size, (first, stride));
            }
            TypeInner::Struct { members, .. } => members.iter().map(|member| member.ty).collect::<Vec<_>>(),
            other => panic!("no kernel has {other:?} in workgroup memory"),
        };
        for (index, ty) in (0..).zip(parts) {
            let member = self.emit(block, Expression::AccessIndex { base: pointer, index });
            self.fill(block, member, ty, (first, stride));
        }
    }

    fn fill_array(
        &mut self,
        block: &mut Block,
        (pointer, base): (Handle<Expression>, Handle<Type>),
        size: ArraySize,
        (first, stride): (Handle<Expression>, Handle<Expression>),
    ) {
        let length = match size {
            ArraySize::Constant(length) => Expression::Literal(Literal::U32(length.get())),
            ArraySize::Pending(length) => Expression::Override(length),
            ArraySize::Dynamic => panic!("workgroup memory has a length"),
        };
        let length = self.add(length);
        let variable = LocalVariable { name: None, ty: self.word, init: None };
        let variable = self.function.local_variables.append(variable, Span::UNDEFINED);
        let at = self.add(Expression::LocalVariable(variable));
        block.push(Statement::Store { pointer: at, value: first }, Span::UNDEFINED);

        let mut body = Block::new();
        let index = self.emit(&mut body, Expression::Load { pointer: at });
        let compare = Expression::Binary { op: BinaryOperator::GreaterEqual, left: index, right: length };
        let condition = self.emit(&mut body, compare);
        let accept = Block::from_vec(vec![Statement::Break]);
        body.push(Statement::If { condition, accept, reject: Block::new() }, Span::UNDEFINED);
        let element = self.emit(&mut body, Expression::Access { base: pointer, index });
        // Arrays in arrays are filled whole.
        let [none, one] = [0, 1].map(|number| self.add(Expression::Literal(Literal::U32(number))));
        self.fill(&mut body, element, base, (none, one));

        let mut continuing = Block::new();
        let index = self.emit(&mut continuing, Expression::Load { pointer: at });
        let add = Expression::Binary { op: BinaryOperator::Add, left: index, right: stride };
        let value = self.emit(&mut continuing, add);
        continuing.push(Statement::Store { pointer: at, value }, Span::UNDEFINED);
        block.push(Statement::Loop { body, continuing, break_if: None }, Span::UNDEFINED);
    }

    /// The poison as a number of this type.
    fn number(&mut self, block: &mut Block, scalar: Scalar) -> Handle<Expression> {
        let bits = self.emit(block, Expression::Load { pointer: self.bits });
        let kind = scalar.kind;
        if kind == ScalarKind::Uint {
            return bits;
        }
        let expr = self.emit(block, Expression::As { expr: bits, kind, convert: None });
        if scalar.width == 4 {
            return expr;
        }
        self.emit(block, Expression::As { expr, kind, convert: Some(scalar.width) })
    }
}

#[cfg(test)]
mod tests {
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    use super::*;
    use crate::kernels;

    #[test]
    fn every_kernel_is_valid_with_its_memory_filled() {
        let mut filled = 0;
        for kernel in kernels::ALL.into_iter().chain(kernels::BY_MATRICES) {
            let mut module = kernels::module(kernel).unwrap();
            let before = module.entry_points[0].function.body.len();
            poison(&mut module);
            let has_memory = module.global_variables.iter().any(|(_, v)| matches!(v.space, AddressSpace::WorkGroup));
            assert_eq!(module.entry_points[0].function.body.len() > before, has_memory, "{}", kernel.name);
            filled += usize::from(has_memory);
            let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
            validator.validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
        }
        assert!(filled > 15, "{filled}");
    }
}
