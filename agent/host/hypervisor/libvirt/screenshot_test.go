package libvirt

import (
	"bytes"
	"image/color"
	"image/png"
	"testing"
)

func TestPixmapsBecomePNG(t *testing.T) {
	picture, err := asPNG([]byte("P6\n2 1\n255\n\x01\x02\x03\xff\xfe\xfd"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil || img.Bounds().Dx() != 2 || img.Bounds().Dy() != 1 {
		t.Fatalf("%v, %v", img, err)
	}
	for x, want := range []color.NRGBA{{1, 2, 3, 255}, {255, 254, 253, 255}} {
		if got := color.NRGBAModel.Convert(img.At(x, 0)); got != want {
			t.Errorf("point %d is %v, want %v", x, got, want)
		}
	}
	if again, err := asPNG(picture); err != nil || !bytes.Equal(again, picture) {
		t.Errorf("a picture that is PNG already was changed: %v", err)
	}
}

// FuzzPixmap: whatever an emulator says is a picture, it is refused or has as many points as it
// says, and takes no more memory than it came with.
func FuzzPixmap(f *testing.F) {
	for _, seed := range []string{"P6\n2 1\n255\n123456", "P6\n1 1\n255\n1234", "P6\n-1 -1\n255\n", "P6\n99999 99999\n255\n", "P6\n1 1\n65535\n123456", "P5\n1 1\n255\n1", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := readPixmap(data)
		if err != nil {
			return
		}
		if b := img.Bounds(); b.Empty() || 3*b.Dx()*b.Dy() > len(data) {
			t.Errorf("%d bytes are a picture of %v", len(data), b)
		}
	})
}
