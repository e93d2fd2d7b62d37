package hypervisor

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MetadataURI is the XML name space of the metadata element, MetadataPrefix the
// prefix it is written with.
const (
	MetadataURI    = "https://virtmesh.io/xmlns/domain/1"
	MetadataPrefix = "virtmesh"
)

// AliasPrefix starts the alias of a device that has a name in its instance; libvirt
// requires the prefix for aliases that it did not choose itself. AgentChannel is the
// name under which a guest's agent finds its channel.
const (
	AliasPrefix  = "ua-"
	AgentChannel = "org.qemu.guest_agent.0"
)

// Owner says whose a domain is. It is stored in the domain's definition, moves with it
// in a migration, and is all that an agent needs to adopt the domain.
type Owner struct {
	Ref
	// Host is the host the domain was made for.
	Host string
	// Epoch is the fencing epoch of the claim under which it was started.
	Epoch uint64
	// KeepNVRAM and KeepTPM say that the firmware's variables and the TPM's state
	// outlive the domain: Start and Undefine must be called with these options.
	KeepNVRAM, KeepTPM bool
	// GraceSeconds is how long the guest may take to shut down when its host ends it, for
	// lack of the instance; negative for not at all, 0 if nobody has said, as with domains of
	// earlier versions.
	GraceSeconds int64
}

// What the elements <virtmesh:keep> name.
const (
	keepNVRAM = "nvram"
	keepTPM   = "tpm"
)

// kept returns the words for what outlives the domain.
func (o Owner) kept() []string {
	var words []string
	if o.KeepNVRAM {
		words = append(words, keepNVRAM)
	}
	if o.KeepTPM {
		words = append(words, keepTPM)
	}
	return words
}

// ownerXML is the element <virtmesh:instance> below <metadata>.
type ownerXML struct {
	XMLName   xml.Name `xml:"instance"`
	Namespace string   `xml:"namespace"`
	Name      string   `xml:"name"`
	UID       string   `xml:"uid"`
	Host      string   `xml:"host"`
	Epoch     uint64   `xml:"epoch"`
	Keep      []string `xml:"keep"`
	Grace     int64    `xml:"grace,omitempty"`
}

// Metadata returns the content of the domain's <metadata> element.
func (o Owner) Metadata() string {
	var b strings.Builder
	element := func(name, value string) {
		fmt.Fprintf(&b, "<%s:%s>", MetadataPrefix, name)
		// A strings.Builder does not fail.
		_ = xml.EscapeText(&b, []byte(value))
		fmt.Fprintf(&b, "</%s:%s>", MetadataPrefix, name)
	}
	fmt.Fprintf(&b, "<%s:instance xmlns:%s=%q>", MetadataPrefix, MetadataPrefix, MetadataURI)
	element("namespace", o.Namespace)
	element("name", o.Name)
	element("uid", o.UID)
	element("host", o.Host)
	element("epoch", fmt.Sprint(o.Epoch))
	for _, word := range o.kept() {
		element("keep", word)
	}
	if o.GraceSeconds != 0 {
		element("grace", fmt.Sprint(o.GraceSeconds))
	}
	fmt.Fprintf(&b, "</%s:instance>", MetadataPrefix)
	return b.String()
}

// Element returns the single element of the metadata without its name space, which the
// hypervisor adds when it changes the metadata of a domain that is there.
func (o Owner) Element() (string, error) {
	text, err := xml.Marshal(ownerXML{Namespace: o.Namespace, Name: o.Name, UID: o.UID, Host: o.Host, Epoch: o.Epoch, Keep: o.kept(), Grace: o.GraceSeconds})
	if err != nil {
		return "", fmt.Errorf("domain metadata: %w", err)
	}
	return string(text), nil
}

// ParseMetadata reads what Metadata wrote. It takes the single element, from which
// libvirt, when asked for it by name space, has removed prefix and name space.
func ParseMetadata(text string) (Owner, error) {
	var e ownerXML
	if err := xml.Unmarshal([]byte(text), &e); err != nil {
		return Owner{}, fmt.Errorf("domain metadata: %w", err)
	}
	return e.owner()
}

// OwnerOf finds the metadata in a whole domain definition. ok is false when the
// definition is not ours. An error means that the definition is not well-formed, or
// that it is ours and incomplete.
func OwnerOf(domainXML string) (owner Owner, ok bool, err error) {
	d := xml.NewDecoder(strings.NewReader(domainXML))
	var path []string
	started := false
	for {
		token, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) && started && len(path) == 0 {
				return owner, ok, nil
			}
			return Owner{}, false, fmt.Errorf("domain definition: %w", err)
		}
		switch t := token.(type) {
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.StartElement:
			started = true
			if !isOwner(path, t.Name) {
				path = append(path, t.Name.Local)
				continue
			}
			var e ownerXML
			if err := d.DecodeElement(&e, &t); err != nil {
				return Owner{}, false, fmt.Errorf("domain metadata: %w", err)
			}
			if owner, err = e.owner(); err != nil {
				return Owner{}, false, err
			}
			ok = true
		}
	}
}

// isOwner says whether the element called name, below path, is ours.
func isOwner(path []string, name xml.Name) bool {
	return len(path) == 2 && path[0] == "domain" && path[1] == "metadata" &&
		name.Space == MetadataURI && name.Local == "instance"
}

// owner checks what was read.
func (e ownerXML) owner() (Owner, error) {
	o := Owner{
		Ref: Ref{Namespace: e.Namespace, Name: e.Name, UID: e.UID}, Host: e.Host, Epoch: e.Epoch,
		KeepNVRAM: slices.Contains(e.Keep, keepNVRAM), KeepTPM: slices.Contains(e.Keep, keepTPM),
		GraceSeconds: e.Grace,
	}
	if o.Namespace == "" || o.Name == "" || o.UID == "" {
		return Owner{}, errors.New("domain metadata: namespace, name and uid must be set")
	}
	return o, nil
}
