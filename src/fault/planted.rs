//! The bugs that can be planted. Each is one that a change might bring in, in the place where it would be; a test that
//! claims to guard an invariant has to find the one that breaks it.

/// Lists the bugs: the variant, its name in the environment and in `docs/testing.md`, and what is wrong with it.
macro_rules! bugs {
    ($($variant:ident $name:literal $what:literal)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Returns its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Says what is wrong with it.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

bugs! {
    DecidesOtherwise "decides_otherwise" "an agent that has a tool's result answers with it, and asks the model no more"
}
