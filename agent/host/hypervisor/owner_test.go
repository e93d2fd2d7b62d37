package hypervisor

import (
	"strings"
	"testing"
)

var sample = Owner{Ref: Ref{Namespace: "shop", Name: "web", UID: "0f7d8a1e"}, Host: "host1", Epoch: 1<<64 - 1}

func TestMetadataRoundTrip(t *testing.T) {
	for name, owner := range map[string]Owner{
		"plain":        sample,
		"with state":   {Ref: sample.Ref, Host: "host1", Epoch: 2, KeepNVRAM: true, KeepTPM: true},
		"with grace":   {Ref: sample.Ref, Host: "host1", Epoch: 2, GraceSeconds: 180},
		"no grace":     {Ref: sample.Ref, Host: "host1", Epoch: 2, GraceSeconds: -1},
		"with TPM":     {Ref: sample.Ref, Host: "host1", Epoch: 2, KeepTPM: true},
		"needs quotes": {Ref: Ref{Namespace: "a&b", Name: "<x>", UID: "\"'"}, Host: "h]]>"},
	} {
		text := owner.Metadata()
		if got, err := ParseMetadata(text); err != nil || got != owner {
			t.Errorf("%s: parsed %+v, %v from %s", name, got, err, text)
		}
		whole := "<domain><name>x</name><metadata><other/>" + text + "</metadata><devices/></domain>"
		if got, ok, err := OwnerOf(whole); err != nil || !ok || got != owner {
			t.Errorf("%s: found %+v, %v, %v", name, got, ok, err)
		}
	}
}

func TestMetadataWithoutNameSpaceIsRead(t *testing.T) {
	text := "<instance>\n  <namespace>shop</namespace><name>web</name>\n  <uid>0f7d8a1e</uid><host>host1</host><epoch>18446744073709551615</epoch></instance>"
	if got, err := ParseMetadata(text); err != nil || got != sample {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOwnerOfRefusesWhatIsNotOurs(t *testing.T) {
	elsewhere := strings.Replace(sample.Metadata(), MetadataURI, "https://example.com/", 1)
	for name, text := range map[string]string{
		"none":                "<domain><metadata/></domain>",
		"another's":           "<domain><metadata>" + elsewhere + "</metadata></domain>",
		"not in the metadata": "<domain><description>" + sample.Metadata() + "</description></domain>",
		"too deep":            "<domain><metadata><x>" + sample.Metadata() + "</x></metadata></domain>",
	} {
		if got, ok, err := OwnerOf(text); ok || err != nil {
			t.Errorf("%s: got %+v, %v, %v", name, got, ok, err)
		}
	}
	for name, text := range map[string]string{
		"broken":     "<domain><metadata>",
		"not XML":    "what",
		"incomplete": "<domain><metadata><v:instance xmlns:v=\"" + MetadataURI + "\"/></metadata></domain>",
	} {
		if got, ok, err := OwnerOf(text); ok || err == nil {
			t.Errorf("%s: got %+v, %v, %v", name, got, ok, err)
		}
	}
}

func FuzzOwnerOf(f *testing.F) {
	f.Add("<domain><metadata>" + sample.Metadata() + "</metadata></domain>")
	f.Add("</x>")
	f.Fuzz(func(t *testing.T, text string) {
		owner, ok, err := OwnerOf(text)
		if ok && (err != nil || owner.UID == "") {
			t.Errorf("owner %+v with error %v", owner, err)
		}
	})
}
