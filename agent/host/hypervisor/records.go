package hypervisor

import (
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// RecordsURI is the XML name space of the metadata element that holds a domain's
// records, RecordsPrefix the prefix it is written with. It stands beside the element
// of the Owner, so that writing one never touches the other.
const (
	RecordsURI    = "https://virtmesh.io/xmlns/records/1"
	RecordsPrefix = "virtmeshrecords"
)

// Bounds of a domain's records. They are small because reading a record reads the whole
// definition.
const (
	maxRecords     = 32
	maxRecordName  = 64
	maxRecordValue = 1024
)

// recordsXML is the element <virtmeshrecords:records> below <metadata>.
type recordsXML struct {
	XMLName xml.Name    `xml:"records"`
	Records []recordXML `xml:"record"`
}

type recordXML struct {
	Name  string `xml:"name,attr"`
	Value string `xml:",chardata"`
}

// ValidateRecord says what is wrong with a record: a name is 1 to 64 letters, digits,
// dots and dashes, a value at most 1024 bytes of printable text.
func ValidateRecord(name, value string) error {
	if name == "" || len(name) > maxRecordName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" {
		return fmt.Errorf("%w: record name %q must be 1 to %d letters, digits, dots and dashes", ErrInvalid, name, maxRecordName)
	}
	if len(value) > maxRecordValue {
		return fmt.Errorf("%w: the value of record %q has %d bytes, the most is %d", ErrInvalid, name, len(value), maxRecordValue)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
		return fmt.Errorf("%w: the value of record %q must be printable text", ErrInvalid, name)
	}
	return nil
}

// WithRecord returns a copy of records with one of them set, or removed when value is
// empty. It fails when there would be too many.
func WithRecord(records map[string]string, name, value string) (map[string]string, error) {
	if err := ValidateRecord(name, value); err != nil {
		return nil, err
	}
	out := maps.Clone(records)
	if value == "" {
		delete(out, name)
		return out, nil
	}
	if out == nil {
		out = map[string]string{}
	}
	out[name] = value
	if len(out) > maxRecords {
		return nil, fmt.Errorf("%w: record %q would be one more than the %d that a domain may have", ErrInvalid, name, maxRecords)
	}
	return out, nil
}

// FormatRecords returns the element that holds records, without its name space, which
// the hypervisor adds.
func FormatRecords(records map[string]string) (string, error) {
	var e recordsXML
	for _, name := range slices.Sorted(maps.Keys(records)) {
		e.Records = append(e.Records, recordXML{Name: name, Value: records[name]})
	}
	text, err := xml.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("domain records: %w", err)
	}
	return string(text), nil
}

// ParseRecords reads what FormatRecords wrote.
func ParseRecords(text string) (map[string]string, error) {
	var e recordsXML
	if err := xml.Unmarshal([]byte(text), &e); err != nil {
		return nil, fmt.Errorf("domain records: %w", err)
	}
	var out map[string]string
	for _, r := range e.Records {
		if ValidateRecord(r.Name, r.Value) != nil || len(out) == maxRecords {
			continue // not written by us
		}
		if out == nil {
			out = map[string]string{}
		}
		out[r.Name] = r.Value
	}
	return out, nil
}
