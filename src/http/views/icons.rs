//! Icons, drawn with one pen. None says anything that the words beside it don't.

use maud::{Markup, html};

fn icon(paths: &[&str]) -> Markup {
    html! {
        svg.icon viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false" {
            @for path in paths { path d=(path) {} }
        }
    }
}

/// A disk with layers.
pub fn store() -> Markup {
    icon(&[
        "M3.500 5.500c0-1.400 2.900-2.500 6.500-2.500s6.500 1.100 6.500 2.500S13.600 8 10 8 3.500 6.900 3.500 5.500z",
        "M3.500 5.500v9c0 1.400 2.900 2.500 6.500 2.500s6.500-1.100 6.500-2.500v-9",
        "M3.500 10c0 1.400 2.900 2.500 6.500 2.500s6.500-1.100 6.500-2.500",
    ])
}

/// A shield with a tick: safe.
pub fn safe() -> Markup {
    icon(&[
        "M10 2.500l6 2.200v4.600c0 3.900-2.500 6.700-6 8.200-3.500-1.500-6-4.300-6-8.200V4.700z",
        "M7 10l2.200 2.200L13.200 8",
    ])
}

/// A triangle: look at it.
pub fn attention() -> Markup {
    icon(&["M10 3l7.500 13.500h-15z", "M10 8v4", "M10 14.200v.1"])
}

/// An octagon: it is not safe.
pub fn danger() -> Markup {
    icon(&["M7 2.800h6L17.200 7v6L13 17.200H7L2.800 13V7z", "M10 6.500v4.500", "M10 13.600v.1"])
}

/// An hourglass: under way.
pub fn busy() -> Markup {
    icon(&[
        "M5.500 3h9M5.500 17h9M6.500 3v2.500c0 2 3.500 3 3.500 4.500s-3.500 2.500-3.500 4.500V17M13.500 3v2.500c0 2-3.500 3-3.500 4.500s3.500 2.500 3.500 4.500V17",
    ])
}

/// A tick: done, or as it should be.
pub fn tick() -> Markup {
    icon(&["M4 10.500l4 4 8-9"])
}

/// A pin.
pub fn pin() -> Markup {
    icon(&["M7 3h6l-.8 5 2.300 3h-9l2.300-3z", "M10 11v6"])
}

/// Three dots: more.
pub fn more() -> Markup {
    icon(&["M4.500 10h.1M10 10h.1M15.500 10h.1"])
}

/// An arrow into a tray.
pub fn download() -> Markup {
    icon(&["M10 3v9M6 8.500l4 4 4-4", "M3.500 14v2.500h13V14"])
}

/// An arrow that goes back.
pub fn back() -> Markup {
    icon(&["M4 4v4.500h4.500", "M4.300 8.300A6.300 6.300 0 1 1 4 12"])
}
