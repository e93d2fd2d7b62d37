package executor

import "sync"

const (
	// maxPictures is how many pictures of a guest's display are taken at once, waiting ones among
	// them, and maxHostPictures how many of all guests of the host. A picture may have
	// guests.MaxScreenshotBytes, and an emulator that hangs gives none.
	maxPictures     = 2
	maxHostPictures = 8
)

// pictures counts the pictures that are being taken, by the instance's UID. Its methods may be
// called concurrently.
type pictures struct {
	mu    sync.Mutex
	byUID map[string]int
	all   int
}

func newPictures() *pictures { return &pictures{byUID: map[string]int{}} }

// begin counts a picture, and reports whether there is room for it.
func (p *pictures) begin(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byUID[uid] >= maxPictures || p.all >= maxHostPictures {
		return false
	}
	p.byUID[uid]++
	p.all++
	return true
}

func (p *pictures) end(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.byUID[uid]--; p.byUID[uid] == 0 {
		delete(p.byUID, uid)
	}
}
