package objects

// Change is one change that a handler receives.
type Change[T Object] struct {
	// Key names the object.
	Key Key
	// New is the object now, nil if it was deleted. It is shared and must not be
	// modified.
	New T
	// Recreated is true if New is another object than Old, with the same name: the
	// deletion and the creation are one change to whoever missed the first.
	Recreated bool
	// Revision is the store revision of the change; zero if unknown, as for a deletion
	// that was detected by a list.
	Revision uint64

	old func() T // nil for a new object
}

// NewChange returns the change of an object from old to now; a nil pointer stands for an
// object that does not exist.
func NewChange[T Object](key Key, old, now T) Change[T] {
	c := Change[T]{Key: key, New: now}
	var none T
	if any(old) != any(none) {
		c.old = func() T { return old }
		c.Recreated = any(now) != any(none) && old.GetUID() != now.GetUID()
	}
	return c
}

// IsNew reports whether the object did not exist before.
func (c Change[T]) IsNew() bool { return c.old == nil }

// IsDelete reports whether the object does not exist any more. New is then a typed nil,
// which only equals the zero value of its type.
func (c Change[T]) IsDelete() bool {
	var none T
	return any(c.New) == any(none)
}

// Old returns the object before the change, nil if it is new. It is shared and must not
// be modified. The informer decodes it for this call, so a handler asks for it only if it
// has to.
func (c Change[T]) Old() T {
	if c.old == nil {
		var none T
		return none
	}
	return c.old()
}
