//! Arrays to tensors and back, in every layout.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ndarray::{Array, ArrayD, Axis, Dimension, Ix2, Ix3, IxDyn, Slice, array};
use proptest::prelude::*;
use tensor_core::{Device, Error, Kind, Tensor, interop};

/// An array of 0 to 4 dimensions with the numbers 0, 1, 2.. in it.
fn arrays() -> impl Strategy<Value = ArrayD<f32>> {
    prop::collection::vec(0_usize..5, 0..5).prop_map(|shape| {
        let n = shape.iter().product();
        let values = (0..n).map(|i: usize| i as f32).collect();
        ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap()
    })
}

/// A step that changes the layout: permute two axes, reverse one, take every `k`-th, drop a prefix.
type Edit = (u8, usize, usize);

fn edit(a: &mut ndarray::ArrayViewD<'_, f32>, (what, i, k): Edit) {
    if a.ndim() == 0 {
        return;
    }
    let axis = Axis(i % a.ndim());
    match what % 4 {
        0 => a.swap_axes(axis.0, k % a.shape().len()),
        1 => a.invert_axis(axis),
        2 => a.slice_axis_inplace(axis, Slice::new(0, None, 1 + (k % 3) as isize)),
        _ => {
            let start = k.min(a.len_of(axis)) as isize;
            a.slice_axis_inplace(axis, Slice::new(start, None, 1));
        }
    }
}

/// The slow truth: every element by its index.
fn same(t: &Tensor, a: &ndarray::ArrayViewD<'_, f32>) -> bool {
    let size: Vec<i64> = a.shape().iter().map(|d| *d as i64).collect();
    t.size() == size
        && a.indexed_iter().all(|(at, v)| {
            let at: Vec<i64> = at.slice().iter().map(|i| *i as i64).collect();
            (t.double_value(&at) as f32).to_bits() == v.to_bits()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_layout_arrives_in_logical_order(
        a in arrays(),
        edits in prop::collection::vec(any::<Edit>(), 0..5),
    ) {
        let mut view = a.view();
        for step in edits {
            edit(&mut view, step);
        }
        let t = interop::to_tensor(&view).unwrap();
        prop_assert!(same(&t, &view));
        let back: ArrayD<f32> = interop::to_array(&t).unwrap();
        prop_assert_eq!(back.view(), view.view());
        let through = interop::with_view::<f32, _>(&t, |v| v == view).unwrap();
        prop_assert!(through);
        prop_assert_eq!(interop::to_vec::<f32>(&t).unwrap(), view.iter().copied().collect::<Vec<_>>());
    }

    #[test]
    fn tensors_of_any_stride_leave_in_logical_order(
        size in prop::collection::vec(1_i64..5, 3),
        swap in (0_i64..3, 0_i64..3),
        narrow in 0_i64..3,
        expand in any::<bool>(),
    ) {
        let n: i64 = size.iter().product();
        let t = Tensor::arange(n, (Kind::Int64, Device::Cpu)).reshape(&size).transpose(swap.0, swap.1);
        let len = t.size()[narrow as usize];
        let t = t.narrow(narrow, len / 2, len - len / 2);
        let t = if expand { t.narrow(0, 0, 1).expand([3, -1, -1], false) } else { t };
        let a: Array<i64, Ix3> = interop::to_array(&t).unwrap();
        for ((i, j, k), v) in a.indexed_iter() {
            prop_assert_eq!(t.int64_value(&[i as i64, j as i64, k as i64]), *v);
        }
        prop_assert_eq!(interop::to_tensor(&a).unwrap(), t);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused(
        values in prop::collection::vec(any::<f64>(), 0..20),
        size in prop::collection::vec(prop_oneof![-3_i64..6, Just(i64::MAX), Just(i64::MIN)], 0..5),
    ) {
        let product = size.iter().try_fold(1_i64, |n, d| if *d < 0 { None } else { n.checked_mul(*d) });
        match interop::from_slice(&values, &size) {
            Ok(t) => {
                prop_assert_eq!(product, Some(values.len() as i64));
                let back: Vec<f64> = interop::to_vec(&t).unwrap();
                let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&back), bits(&values));
            }
            Err(Error::Argument { arg: "size", .. }) => {
                prop_assert_ne!(product, Some(values.len() as i64));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn every_kind_makes_a_round_trip() {
    fn check<T: interop::Scalar + PartialEq + std::fmt::Debug>(values: [T; 3], kind: Kind) {
        let t = interop::from_slice(&values, &[3]).unwrap();
        assert_eq!(t.kind(), kind);
        assert_eq!(interop::to_vec::<T>(&t).unwrap(), values);
        interop::with_view::<T, _>(&t, |v| assert_eq!(v.as_slice(), Some(&values[..]))).unwrap();
    }
    check([0_u8, 7, 255], Kind::Uint8);
    check([-128_i8, 0, 127], Kind::Int8);
    check([i16::MIN, 0, i16::MAX], Kind::Int16);
    check([i32::MIN, 0, i32::MAX], Kind::Int);
    check([i64::MIN, 0, i64::MAX], Kind::Int64);
    check([f32::MIN_POSITIVE, -0.5, f32::INFINITY], Kind::Float);
    check([f64::MIN_POSITIVE, -0.5, f64::NEG_INFINITY], Kind::Double);
    check([true, false, true], Kind::Bool);
}

#[test]
fn a_wrong_kind_or_rank_is_named() {
    let t = interop::to_tensor(&array![[1.0_f32, 2.0], [3.0, 4.0]]).unwrap();
    let text = interop::to_vec::<f64>(&t).unwrap_err().to_string();
    assert_eq!(text, "interop::to_vec: `t` must be of kind Double, got Float");
    assert!(matches!(interop::with_view::<i32, _>(&t, |_| ()), Err(Error::Kind { .. })));
    let text = interop::to_array::<f32, Ix3>(&t).unwrap_err().to_string();
    assert_eq!(text, "interop::to_array: `t` must be of 3 dimensions, got [2, 2]");
    assert!(interop::to_vec::<f32>(&Tensor::new()).is_err(), "an undefined tensor has no kind");
}

#[test]
fn a_view_needs_contiguous_memory_and_shares_it() {
    let a = array![[1.0_f64, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let t = interop::to_tensor(&a).unwrap();
    let address = interop::with_view(&t, |v: ndarray::ArrayViewD<'_, f64>| v.as_ptr() as usize);
    assert_eq!(address.unwrap(), t.data_ptr() as usize);
    let text = interop::with_view::<f64, _>(&t.tr(), |_| ()).unwrap_err().to_string();
    assert!(text.contains("contiguous") && text.contains("strides [1, 3]"), "{text}");
    let empty = Tensor::zeros([0, 4], (Kind::Float, Device::Cpu));
    interop::with_view::<f32, _>(&empty, |v| assert_eq!(v.shape(), [0, 4])).unwrap();
    // A part that starts inside another tensor's memory.
    interop::with_view::<f64, _>(&t.get(1), |v| assert!((v.sum() - 15.0).abs() < 1e-12)).unwrap();
}

#[test]
fn values_leave_a_graph_without_it() {
    let x = Tensor::from_slice(&[1.0_f32, 2.0]).set_requires_grad(true);
    let y = &x * 2.0;
    assert_eq!(interop::to_vec::<f32>(&y).unwrap(), [2.0, 4.0]);
    assert_eq!(interop::to_array::<f32, IxDyn>(&y).unwrap().len(), 2);
}

#[test]
#[cfg(feature = "nalgebra")]
fn matrices_keep_their_rows() {
    let m = nalgebra::DMatrix::from_row_slice(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let t = interop::from_matrix(&m).unwrap();
    assert_eq!(t.size(), [2, 3]);
    assert!(t.is_contiguous());
    assert_eq!(interop::to_vec::<f64>(&t).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(interop::to_matrix::<f64>(&t).unwrap(), m);
    assert_eq!(interop::to_matrix::<f64>(&t.tr()).unwrap(), m.transpose());
    assert!(matches!(interop::to_matrix::<f64>(&t.get(0)), Err(Error::Shape { .. })));
    let none = nalgebra::DMatrix::<f64>::zeros(0, 3);
    assert_eq!(interop::to_matrix::<f64>(&interop::from_matrix(&none).unwrap()).unwrap(), none);
}

#[test]
fn fortran_order_is_a_layout_like_any_other() {
    let a = Array::from_shape_fn((3, 2), |(i, j)| (10 * i + j) as i64);
    let mut f = Array::zeros(ndarray::ShapeBuilder::f((3, 2)));
    f.assign(&a);
    assert!(!f.is_standard_layout());
    let t = interop::to_tensor(&f).unwrap();
    assert_eq!(interop::to_array::<i64, Ix2>(&t).unwrap(), a);
}
