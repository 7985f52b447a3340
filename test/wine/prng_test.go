package wine

import (
	"bytes"
	"encoding/binary"
)

// forwarder is a Windows library for x86-64 with no code in it: it exports one function, which the system finds in
// another library ("library.function", without ".dll"). Microsoft's PE format specification, sections 2 to 4 and 6.3.
//
// Every program that Go builds takes ProcessPrng from bcryptprimitives.dll, which Windows has since 7 and Wine since
// 9.0. Debian 12 has Wine 8.0, so the test puts the library there, over the generator that Wine has had all along:
// SystemFunction036 (RtlGenRandom) takes the same buffer and length and answers with the same truth.
func forwarder(library, function, target string) []byte {
	const (
		headers  = 0x200  // file offset of the section, and the file's alignment
		section  = 0x1000 // its address, and the alignment in memory
		export   = 40     // bytes of the export directory
		imageLen = 2 * section
	)
	var data bytes.Buffer // the section: directory, one address, one name, one ordinal, three strings
	put := func(values ...any) {
		for _, v := range values {
			binary.Write(&data, binary.LittleEndian, v) // into memory, of values with a size
		}
	}
	addresses := uint32(section + export)
	names, ordinals, strings := addresses+4, addresses+8, addresses+10
	text := library + "\x00" + function + "\x00" + target + "\x00"
	functionAt := strings + uint32(len(library)+1)
	targetAt := functionAt + uint32(len(function)+1)
	put(uint32(0), uint32(0), uint32(0), strings, uint32(1), uint32(1), uint32(1), addresses, names, ordinals)
	put(targetAt, functionAt, uint16(0), []byte(text))
	size := uint32(data.Len())

	var image bytes.Buffer
	head := func(values ...any) {
		for _, v := range values {
			binary.Write(&image, binary.LittleEndian, v)
		}
	}
	head([]byte("MZ"), make([]byte, 58), uint32(64)) // where the PE header is
	head([]byte("PE\x00\x00"),
		uint16(0x8664), uint16(1), uint32(0), uint32(0), uint32(0), uint16(240), uint16(0x2022)) // x86-64, 1 section, executable, a DLL
	head(uint16(0x20B), uint16(0), uint32(0), uint32(headers), uint32(0), uint32(0), uint32(section), // PE32+, no entry point
		uint64(0x180000000), uint32(section), uint32(headers), uint16(6), uint16(0), uint16(0), uint16(0), uint16(6), uint16(0), uint32(0),
		uint32(imageLen), uint32(headers), uint32(0), uint16(3), uint16(0x100), // a console's, NX compatible
		uint64(1<<20), uint64(1<<12), uint64(1<<20), uint64(1<<12), uint32(0), uint32(16))
	head(uint32(section), size, make([]byte, 15*8)) // of the 16 directories only the exports
	head([]byte(".edata\x00\x00"), size, uint32(section), uint32(headers), uint32(headers), make([]byte, 12), uint32(0x40000040))
	image.Write(make([]byte, headers-image.Len()))
	image.Write(data.Bytes())
	image.Write(make([]byte, 2*headers-image.Len()))
	return image.Bytes()
}
