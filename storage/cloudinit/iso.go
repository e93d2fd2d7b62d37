package cloudinit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An image has two trees of names for the same file contents. The ISO 9660 tree has
// short names, and Rock Ridge entries with the real name and mode for Linux and BSD.
// The Joliet tree has names in UCS-2 for Windows. Numbers of several bytes are stored
// in both byte orders. Layout, in sectors: 16 reserved, 3 descriptors, 4 path tables,
// the folders of both trees, the files.
const (
	isoSector    = 2048
	isoReserved  = 16
	isoPadding   = 150 // some readers look for other file systems behind the end of a small image
	maxNameUnits = 64  // of a Joliet name
	maxNameBytes = 128
	maxISOBytes  = 1 << 30
	// Every date in the image. With the present time, equal input would give different
	// images.
	isoVolumeDate = "2000010100000000\x00"
	noVolumeDate  = "0000000000000000\x00"
)

var isoDate = []byte{100, 1, 1, 0, 0, 0, 0} // 2000-01-01 00:00 UTC

// node is a file or folder. Index 0 of the arrays is the ISO 9660 tree, 1 Joliet's.
type node struct {
	name     string
	id       [2][]byte
	data     []byte
	children []*node // nil for a file
	parent   *node
	dir      bool
	extent   [2]uint32 // first sector
	size     [2]uint32 // bytes, whole sectors for a folder
	number   [2]uint16 // of a folder in its path table
}

// ISO returns a read-only ISO 9660 image called label that holds files, by
// slash-separated path. Files are readable for all, owned by root and dated
// 2000-01-01. A name may have 64 characters.
func ISO(label string, files map[string][]byte) ([]byte, error) {
	if label == "" || len(label) > 16 || strings.ContainsFunc(label, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("make ISO image: label %q is not 1 to 16 plain characters", label)
	}
	root, err := isoTree(files)
	if err != nil {
		return nil, fmt.Errorf("make ISO image %s: %w", label, err)
	}
	return isoWrite(label, root), nil
}

func isoTree(files map[string][]byte) (*node, error) {
	root := &node{dir: true}
	root.parent = root
	dirs := map[string]*node{"": root}
	var total int64
	for _, p := range sortedKeys(files) {
		if total += int64(len(files[p])); total > maxISOBytes {
			return nil, fmt.Errorf("more than %d bytes of files", int64(maxISOBytes))
		}
		if p == "" || path.Clean("/"+p) != "/"+p {
			return nil, fmt.Errorf("file name %q", p)
		}
		parts := strings.Split(p, "/")
		at := ""
		for i, part := range parts {
			if err := checkName(part); err != nil {
				return nil, err
			}
			parent := dirs[at]
			at = strings.TrimPrefix(at+"/"+part, "/")
			last := i == len(parts)-1
			if have, ok := dirs[at]; ok && !last {
				if !have.dir {
					return nil, fmt.Errorf("%q is a file and a folder", at)
				}
				continue
			} else if ok {
				return nil, fmt.Errorf("%q is a file and a folder", at)
			}
			n := &node{name: part, parent: parent, dir: !last}
			if last {
				n.data = files[p]
			}
			parent.children = append(parent.children, n)
			dirs[at] = n
		}
	}
	if len(dirs) > 30_000 {
		return nil, fmt.Errorf("%d files", len(dirs))
	}
	return root, nil
}

func checkName(n string) error {
	if n == "" || n == "." || n == ".." || !utf8.ValidString(n) || len(n) > maxNameBytes ||
		len(utf16.Encode([]rune(n))) > maxNameUnits || strings.ContainsAny(n, "\x00\\*:;?") {
		return fmt.Errorf("file name %q", n)
	}
	return nil
}

func sortedKeys(m map[string][]byte) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// isoWrite computes the layout of the image and writes it.
func isoWrite(label string, root *node) []byte {
	folders, regular := isoNames(root)
	tables := [2][]*node{pathOrder(root, 0), pathOrder(root, 1)}
	next := uint32(isoReserved + 3)
	var tableAt [2][2]uint32 // tree, byte order
	for tree := range 2 {
		for order := range 2 {
			tableAt[tree][order] = next
			next += sectors(len(pathTable(tables[tree], tree, binary.LittleEndian)))
		}
	}
	for tree := range 2 {
		for _, d := range folders {
			d.extent[tree] = next
			n := sectors(len(folder(d, tree)))
			d.size[tree] = n * isoSector
			next += n
		}
	}
	for _, f := range regular {
		n := sectors(len(f.data))
		for tree := range 2 {
			f.size[tree] = uint32(len(f.data))
			if n > 0 {
				f.extent[tree] = next
			}
		}
		next += n
	}
	next += isoPadding
	img := make([]byte, int64(next)*isoSector)
	at := func(sector uint32) []byte { return img[int64(sector)*isoSector:] }
	for tree := range 2 {
		copy(at(uint32(isoReserved+tree)), descriptor(label, root, tree, next, len(pathTable(tables[tree], tree, binary.LittleEndian)), tableAt[tree]))
		copy(at(tableAt[tree][0]), pathTable(tables[tree], tree, binary.LittleEndian))
		copy(at(tableAt[tree][1]), pathTable(tables[tree], tree, binary.BigEndian))
		for _, d := range folders {
			copy(at(d.extent[tree]), folder(d, tree))
		}
	}
	copy(at(isoReserved+2), "\xffCD001\x01")
	for _, f := range regular {
		if len(f.data) > 0 {
			copy(at(f.extent[0]), f.data)
		}
	}
	return img
}

func sectors(n int) uint32 { return uint32((n + isoSector - 1) / isoSector) }

// isoNames gives every node its identifiers and lists folders and files.
func isoNames(root *node) (folders, regular []*node) {
	root.id = [2][]byte{{0}, {0}}
	count := 0
	var walk func(n *node)
	walk = func(n *node) {
		if !n.dir {
			regular = append(regular, n)
			return
		}
		folders = append(folders, n)
		for _, c := range n.children {
			count++
			// Linux and Windows show the other name; this one only has to be valid.
			c.id[0] = fmt.Appendf(nil, "F%07d", count)
			units := utf16.Encode([]rune(c.name))
			if !c.dir {
				c.id[0] = append(c.id[0], ".;1"...)
				units = append(units, ';', '1')
			}
			c.id[1] = nil
			for _, u := range units {
				c.id[1] = binary.BigEndian.AppendUint16(c.id[1], u)
			}
			walk(c)
		}
	}
	walk(root)
	return folders, regular
}

// sorted returns a folder's children in the order that the tree requires.
func sorted(d *node, tree int) []*node {
	c := slices.Clone(d.children)
	slices.SortFunc(c, func(a, b *node) int { return bytes.Compare(a.id[tree], b.id[tree]) })
	return c
}

// pathOrder lists folders by depth and then by parent, and numbers them.
func pathOrder(root *node, tree int) []*node {
	list := []*node{root}
	for i := 0; i < len(list); i++ {
		list[i].number[tree] = uint16(i + 1)
		for _, c := range sorted(list[i], tree) {
			if c.dir {
				list = append(list, c)
			}
		}
	}
	return list
}

func pathTable(list []*node, tree int, order binary.AppendByteOrder) []byte {
	var b []byte
	for _, d := range list {
		b = append(b, byte(len(d.id[tree])), 0)
		b = order.AppendUint32(b, d.extent[tree])
		b = order.AppendUint16(b, d.parent.number[tree])
		b = append(b, d.id[tree]...)
		if len(d.id[tree])%2 == 1 {
			b = append(b, 0)
		}
	}
	return b
}

// folder returns a folder's records. No record crosses the border of a sector.
func folder(d *node, tree int) []byte {
	var b []byte
	add := func(rec []byte) {
		if room := isoSector - len(b)%isoSector; len(rec) > room {
			b = append(b, make([]byte, room)...)
		}
		b = append(b, rec...)
	}
	add(record(d, []byte{0}, tree, dotEntries(d, tree, d.parent == d)))
	add(record(d.parent, []byte{1}, tree, dotEntries(d.parent, tree, false)))
	for _, c := range sorted(d, tree) {
		var su []byte
		if tree == 0 {
			su = append(posixEntry(c), nameEntry(c.name)...)
		}
		add(record(c, c.id[tree], tree, su))
	}
	return b
}

func record(n *node, id []byte, tree int, systemUse []byte) []byte {
	b := []byte{0, 0}
	b = both32(b, n.extent[tree])
	b = both32(b, n.size[tree])
	b = append(b, isoDate...)
	flags := byte(0)
	if n.dir {
		flags = 2
	}
	b = append(b, flags, 0, 0)
	b = both16(b, 1)
	b = append(b, byte(len(id)))
	b = append(b, id...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b = append(b, systemUse...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

// dotEntries returns the Rock Ridge entries of "." and "..". That of the root says that
// the tree has Rock Ridge entries.
func dotEntries(d *node, tree int, first bool) []byte {
	if tree != 0 {
		return nil
	}
	var b []byte
	if first {
		b = append(b, "SP\x07\x01\xbe\xef\x00"...)
		const id = "RRIP_1991A"
		b = append(b, 'E', 'R', 8+byte(len(id)), 1, byte(len(id)), 0, 0, 1)
		b = append(b, id...)
	}
	return append(b, posixEntry(d)...)
}

func posixEntry(n *node) []byte {
	mode, links := uint32(0o100444), uint32(1)
	if n.dir {
		mode, links = 0o40555, 2
	}
	b := []byte{'P', 'X', 36, 1}
	b = both32(b, mode)
	b = both32(b, links)
	b = both32(b, 0)
	return both32(b, 0)
}

func nameEntry(name string) []byte {
	return append([]byte{'N', 'M', byte(5 + len(name)), 1, 0}, name...)
}

// descriptor returns the volume descriptor of a tree.
func descriptor(label string, root *node, tree int, total uint32, tableLen int, tables [2]uint32) []byte {
	text := func(s string, n int) []byte { return append([]byte(s), bytes.Repeat([]byte{' '}, n-len(s))...) }
	if tree == 1 {
		text = func(s string, n int) []byte {
			var b []byte
			for len(b) < n-n%2 {
				c := byte(' ')
				if i := len(b) / 2; i < len(s) {
					c = s[i]
				}
				b = append(b, 0, c)
			}
			return append(b, make([]byte, n%2)...)
		}
	}
	b := append([]byte{byte(1 + tree)}, "CD001\x01\x00"...)
	b = append(b, text("", 32)...)
	b = append(b, text(label, 32)...)
	b = append(b, make([]byte, 8)...)
	b = both32(b, total)
	escape := make([]byte, 32)
	if tree == 1 {
		copy(escape, "%/E") // UCS-2, level 3
	}
	b = append(b, escape...)
	b = both16(b, 1)
	b = both16(b, 1)
	b = both16(b, isoSector)
	b = both32(b, uint32(tableLen))
	b = binary.LittleEndian.AppendUint32(b, tables[0])
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, tables[1])
	b = append(b, 0, 0, 0, 0)
	b = append(b, record(root, []byte{0}, tree, nil)...)
	for _, n := range []int{128, 128, 128, 128, 37, 37, 37} {
		b = append(b, text("", n)...)
	}
	b = append(b, isoVolumeDate+isoVolumeDate+noVolumeDate+noVolumeDate+"\x01"...)
	return append(b, make([]byte, isoSector-len(b))...)
}

func both16(b []byte, v uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, v), v)
}

func both32(b []byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, v), v)
}
