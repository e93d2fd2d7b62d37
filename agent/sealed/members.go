package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// members are those of a JSON object, in their order and as they are written.
type members []member

type member struct {
	name  string
	value json.RawMessage
}

var errNoObject = errors.New("not a JSON object")

func parseMembers(text []byte) (members, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errNoObject
	}
	var out members
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("read a JSON object: %w", err)
		}
		m := member{name: fmt.Sprint(name)}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("read a JSON object: %w", err)
		}
		out = append(out, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, errNoObject
	}
	return out, nil
}

func (o members) encode() []byte {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		name, _ := json.Marshal(m.name) // a string can be encoded
		out = append(append(append(out, name...), ':'), m.value...)
	}
	return append(out, '}')
}

func (o members) find(name string) int {
	return slices.IndexFunc(o, func(m member) bool { return m.name == name })
}

// get returns the value of a member, nil if there is none.
func (o members) get(name string) json.RawMessage {
	if i := o.find(name); i >= 0 {
		return o[i].value
	}
	return nil
}

// text returns the value of a member that is a string, else "".
func (o members) text(name string) string {
	var s string
	if json.Unmarshal(o.get(name), &s) != nil {
		return ""
	}
	return s
}

func (o members) names() []string {
	out := make([]string, len(o))
	for i, m := range o {
		out[i] = m.name
	}
	return out
}

// set replaces the value of a member, or appends it.
func (o *members) set(name string, value json.RawMessage) {
	if i := o.find(name); i >= 0 {
		(*o)[i].value = value
		return
	}
	*o = append(*o, member{name, value})
}

func (o *members) remove(name string) {
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.name == name })
}

// inOrder returns the members in the order of names; those without a name in it come last.
func (o members) inOrder(names []string) members {
	place := func(m member) int {
		if i := slices.Index(names, m.name); i >= 0 {
			return i
		}
		return len(names)
	}
	sorted := slices.Clone(o)
	slices.SortStableFunc(sorted, func(a, b member) int { return place(a) - place(b) })
	return sorted
}

const annotations = "annotations"

// takeAnnotation removes an annotation from metadata and returns its value; nil if it has none.
func (o *members) takeAnnotation(name string) (json.RawMessage, error) {
	text := o.get(annotations)
	if text == nil {
		return nil, nil
	}
	all, err := parseMembers(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", annotations, err)
	}
	taken := all.get(name)
	if taken == nil {
		return nil, nil
	}
	if all.remove(name); len(all) == 0 {
		o.remove(annotations)
	} else {
		o.set(annotations, all.encode())
	}
	return taken, nil
}

// addAnnotation adds an annotation to metadata, at its place in the order of their names.
func (o *members) addAnnotation(name string, value json.RawMessage) error {
	var all members
	if text := o.get(annotations); text != nil {
		var err error
		if all, err = parseMembers(text); err != nil {
			return fmt.Errorf("%s: %w", annotations, err)
		}
	}
	if all.find(name) >= 0 {
		return nil
	}
	at := slices.IndexFunc(all, func(m member) bool { return strings.Compare(m.name, name) > 0 })
	if at < 0 {
		at = len(all)
	}
	o.set(annotations, slices.Insert(all, at, member{name, value}).encode())
	return nil
}
