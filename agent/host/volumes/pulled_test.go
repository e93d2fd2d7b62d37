package volumes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What a host tells of its images is the same while they are, and bounded: facts that
// change for nothing are told to the whole mesh, and too many are told to nobody.
func TestTheImagesOfAHostAreToldInOrderAndBounded(t *testing.T) {
	var p pulledImages
	for _, reference := range []string{"b", "a", "c", "a"} {
		p.noteImage(reference)
	}
	if got := p.list(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("listed %v", got)
	}
	digest := strings.Repeat("0", 64)
	for i := range 500 {
		p.noteImage(fmt.Sprintf("registry.example/team/image-%d@sha256:%s", i, digest))
	}
	all := p.list()
	if size := len(strings.Join(all, "")); size > maxPulledBytes || size < maxPulledBytes/2 {
		t.Errorf("%d images of %d bytes", len(all), size)
	}
	if !slices.IsSorted(all) || !slices.ContainsFunc(all, func(r string) bool { return strings.Contains(r, "image-499@") }) ||
		slices.Contains(all, "a") {
		t.Errorf("not the last ones in order: %v", all)
	}
	for i := range 500 {
		p.noteImage(fmt.Sprint(i))
	}
	if n := len(p.list()); n != maxPulled {
		t.Errorf("%d short references", n)
	}
	p.noteImage(strings.Repeat("x", maxPulledBytes+1))
	if n := len(p.list()); n != maxPulled {
		t.Errorf("one that does not fit leaves %d", n)
	}
}
