package kinds

import (
	"errors"
	"fmt"
	"slices"
)

// ErrUnreadable is the error of Change.Old and Change.New for an object that cannot be decoded.
var ErrUnreadable = errors.New("the object cannot be decoded")

// Planner adds to a transaction that writes objects of a kind what must be committed with
// them: records that are not objects, such as the claim on an address or what a namespace
// uses. It also refuses the transaction because of what such records say. Package objects
// asks it wherever the transaction comes from: the API, a steward, or a dry run, which then
// writes nothing.
type Planner struct {
	// Reads names the records that Plan needs to know for a write of the object at key.
	Reads func(key Key) []string
	// Plan adds to p what one change needs. It depends on nothing but its arguments, and is
	// asked again with newer records if another transaction has changed them first. An error,
	// which should be a status of the API, refuses the whole transaction.
	Plan func(c Change, p *Plan) error
}

// Change is the write of one object.
type Change struct {
	Kind *Kind
	Key  Key
	// Level is the feature level of the mesh.
	Level uint32
	// Old and New return the object before and after; one is nil if the object is created, the
	// other if it is deleted. They decode the object when they are called, so a planner that
	// need not look into it costs no decoding. Of a kind that can be sealed, Old fails on hosts
	// that cannot open it.
	Old, New func() (Object, error)
}

// Plan is what planners add to one transaction. Changes of one transaction share a Plan, so
// that each sees what those before it have added. It is not safe for concurrent use.
type Plan struct {
	records map[string]*plannedRecord
	order   []string // of the keys that the transaction depends on
	err     error
}

// plannedRecord is one record that planners were given.
type plannedRecord struct {
	value   []byte // nil: none
	needed  bool
	changed bool
}

// NewPlan returns an empty Plan on records by key, nil for those that do not exist.
func NewPlan(records map[string][]byte) *Plan {
	p := &Plan{records: make(map[string]*plannedRecord, len(records))}
	for key, value := range records {
		p.records[key] = &plannedRecord{value: value}
	}
	return p
}

// Value returns the value of a record as the plan leaves it, nil if there is none. It must not
// be changed. The transaction does not depend on it yet, see Require.
func (p *Plan) Value(key string) []byte {
	if r := p.record(key); r != nil {
		return r.value
	}
	return nil
}

// Require makes the transaction depend on the record being, when it is committed, as it was
// when it was read.
func (p *Plan) Require(key string) {
	if r := p.record(key); r != nil && !r.needed {
		r.needed = true
		p.order = append(p.order, key)
	}
}

// Put writes a record, and requires that nobody else has changed it.
func (p *Plan) Put(key string, value []byte) { p.set(key, value) }

// Remove deletes a record, and requires that nobody else has changed it.
func (p *Plan) Remove(key string) { p.set(key, nil) }

func (p *Plan) set(key string, value []byte) {
	p.Require(key)
	if r := p.record(key); r != nil {
		r.value, r.changed = value, true
	}
}

// record returns a record that Reads has named.
func (p *Plan) record(key string) *plannedRecord {
	r, ok := p.records[key]
	if !ok {
		p.err = fmt.Errorf("plan: the record %s was not named to be read", key)
	}
	return r
}

// Err returns the error of a planner that used a record which its Reads does not name.
func (p *Plan) Err() error { return p.err }

// Required returns the keys of the records that the transaction depends on, in the order in
// which the planners named them.
func (p *Plan) Required() []string { return slices.Clone(p.order) }

// Written returns the new value of a required record, nil if it is deleted; ok is false if the
// plan leaves it as it is.
func (p *Plan) Written(key string) (value []byte, ok bool) {
	r := p.records[key]
	return r.value, r.changed
}
