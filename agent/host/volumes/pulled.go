package volumes

import "slices"

// Bounds of the list of images that a host gossips. Every host stores the list of every
// other host, and a list that does not fit into one message is not sent at all.
const (
	maxPulled      = 64
	maxPulledBytes = 4 << 10
)

// pulledImages are the references of the images that were pulled last, the newest at
// the end. The zero value has none.
type pulledImages struct{ references []string }

// noteImage notes that an image was pulled, or found in the cache.
func (p *pulledImages) noteImage(reference string) {
	if len(reference) > maxPulledBytes {
		return
	}
	p.references = slices.DeleteFunc(p.references, func(r string) bool { return r == reference })
	p.references = append(p.references, reference)
	size := 0
	for i := len(p.references) - 1; i >= 0; i-- {
		if size += len(p.references[i]); size > maxPulledBytes || len(p.references)-i > maxPulled {
			p.references = slices.Delete(p.references, 0, i+1)
			return
		}
	}
}

// list returns the references by name: the same images make the same list.
func (p *pulledImages) list() []string {
	list := slices.Clone(p.references)
	slices.Sort(list)
	return list
}
