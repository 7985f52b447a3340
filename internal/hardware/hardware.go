// Package hardware gathers evidence about this PC: SMBIOS, disks, network interfaces, TPM. Values that
// manufacturers leave as placeholders prove nothing and are told apart.
package hardware

// Facts are the raw facts about a PC, as a client reports them and as a [hardware] file states them
// (docs/protocol/hardware.md). Strings are as found, trimmed; a placeholder is still in here.
type Facts struct {
	SystemUUID    string `json:"system_uuid"` // as SMBIOS 2.6 and later display it, lower case
	SystemSerial  string `json:"system_serial"`
	BoardSerial   string `json:"board_serial"`
	ChassisSerial string `json:"chassis_serial"`
	Disks         []Disk `json:"disks"`
	NICs          []NIC  `json:"nics"`
	TPMEKSHA256   string `json:"tpm_ek_sha256"` // SHA-256 of the endorsement key, hex
	SMBIOSAMT     bool   `json:"smbios_amt"`    // SMBIOS says that this PC has AMT
}

// Disk is one disk of the PC.
type Disk struct {
	Serial string `json:"serial"`
	System bool   `json:"system"` // holds the running system
}

// NIC is one network interface of the PC.
type NIC struct {
	MAC       string `json:"mac"`       // 00-11-22-33-44-55
	Permanent bool   `json:"permanent"` // burnt in, not set by software
	Onboard   bool   `json:"onboard"`   // sits on the board
}
