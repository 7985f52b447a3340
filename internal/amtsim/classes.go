package amtsim

import (
	"slices"
	"strings"
)

// class is one CIM class of the firmware.
type class struct {
	name    string
	uri     string // resource URI and namespace
	common  bool   // its Get and Pull bind the common namespace too
	storage bool   // one of the two 3PDS classes
	realm   uint32 // the realm that opens it
	// instances gives the class's instances as the device stands now. It is called under the device's lock.
	instances func(d *Device) []instance
	methods   []method

	byName               map[string]*method
	get, enumerate, pull string // keys of the call counters
}

// instance is one object: its keys (a subset of its properties) and its properties in alphabetical order.
type instance struct {
	keys       []string
	properties []property
}

type property struct {
	name, value string
	epr         func(b []byte) []byte // writes the inside of a reference instead
}

func (i *instance) value(name string) (string, bool) {
	for _, p := range i.properties {
		if p.name == name && p.epr == nil {
			return p.value, true
		}
	}
	return "", false
}

// matches reports whether selectors name this instance; a subset of its keys will do.
func (i *instance) matches(selectors []attribute) bool {
	for _, s := range selectors {
		if s.name == "__cimnamespace" {
			continue
		}
		if v, _ := i.value(s.name); !slices.Contains(i.keys, s.name) || v != s.value {
			return false
		}
	}
	return true
}

func (i *instance) keyValues() []attribute {
	var all []attribute
	for _, k := range i.keys {
		v, _ := i.value(k)
		all = append(all, attribute{name: k, value: v})
	}
	return all
}

// append appends the object as an element of the class, in the namespace of prefix.
func (i *instance) append(b []byte, prefix byte, class string) []byte {
	b = append(append(append(b, '<', prefix, ':'), class...), '>')
	for _, p := range i.properties {
		if p.epr != nil {
			b = append(append(append(b, '<', prefix, ':'), p.name...), '>')
			b = p.epr(b)
			b = append(append(append(b, '<', '/', prefix, ':'), p.name...), '>')
			continue
		}
		b = appendElement(b, prefix, p.name, p.value)
	}
	return append(append(append(b, '<', '/', prefix, ':'), class...), '>')
}

var serviceKeys = []string{"CreationClassName", "Name", "SystemCreationClassName", "SystemName"}

// service is the instance that every Intel service class has; between holds further properties.
func service(class, name string, between ...property) []instance {
	all := append([]property{
		{name: "CreationClassName", value: class},
		{name: "ElementName", value: name},
		{name: "EnabledState", value: "5"},
		{name: "Name", value: name},
		{name: "RequestedState", value: "12"},
		{name: "SystemCreationClassName", value: "CIM_ComputerSystem"},
		{name: "SystemName", value: "Intel(r) AMT"},
	}, between...)
	slices.SortStableFunc(all, func(a, b property) int { return strings.Compare(a.name, b.name) })
	return []instance{{keys: serviceKeys, properties: all}}
}

// classes are all that this firmware knows. Values of the two 3PDS classes, and the realms but theirs, are inferred.
var classes = []*class{
	{name: "AMT_ThirdPartyDataStorageService", uri: nsAMT + "AMT_ThirdPartyDataStorageService", common: true, storage: true, realm: realmStorage,
		instances: func(*Device) []instance {
			return service("AMT_ThirdPartyDataStorageService", "Intel(r) AMT Third Party Data Storage Service")
		}, methods: storageMethods},
	{name: "AMT_ThirdPartyDataStorageAdministrationService", uri: nsAMT + "AMT_ThirdPartyDataStorageAdministrationService", common: true, storage: true, realm: realmStorageAdmin,
		instances: func(*Device) []instance {
			return service("AMT_ThirdPartyDataStorageAdministrationService", "Intel(r) AMT Third Party Data Storage Administration Service")
		}, methods: administrationMethods},
	{name: "AMT_GeneralSettings", uri: nsAMT + "AMT_GeneralSettings", realm: realmGeneralInfo, instances: generalSettings},
	{name: "AMT_SetupAndConfigurationService", uri: nsAMT + "AMT_SetupAndConfigurationService", common: true, realm: realmGeneralInfo,
		instances: func(d *Device) []instance {
			state := "0"
			if d.provisioned() {
				state = "2"
			}
			return service("AMT_SetupAndConfigurationService", "Intel(r) AMT Setup and Configuration Service",
				property{name: "PasswordModel", value: "1"},
				property{name: "ProvisioningMode", value: provisioningMode[d.mode()]},
				property{name: "ProvisioningServerOTP"},
				property{name: "ProvisioningState", value: state},
				property{name: "ZeroTouchConfigurationEnabled", value: "true"})
		},
		methods: []method{
			{name: "GetUuid", run: func(c *call) status {
				c.data("UUID", c.d.id.uuid[:])
				return 0
			}},
			{name: "Unprovision", in: []parameter{p("ProvisioningMode", asNumber)}, run: func(c *call) status {
				switch {
				case !c.user.may(realmAdministration):
					return statusInvalidRealm
				case c.args[0].number > 3:
					return statusInvalidParameter
				case !c.d.provisioned():
					return statusProvisioning
				}
				c.d.pending = pendingUnprovision
				return 0
			}},
		}},
	{name: "AMT_AuthorizationService", uri: nsAMT + "AMT_AuthorizationService", common: true, realm: realmACL,
		instances: func(*Device) []instance {
			return service("AMT_AuthorizationService", "Intel(r) AMT Authorization Service", property{name: "AllowHttpQopAuthOnly", value: "1"})
		}, methods: authorizationMethods},
	{name: "AMT_EthernetPortSettings", uri: nsAMT + "AMT_EthernetPortSettings", realm: realmGeneralInfo, instances: ethernetPorts},
	{name: "CIM_ComputerSystemPackage", uri: nsCIM + "CIM_ComputerSystemPackage", realm: realmHardwareAsset,
		instances: func(d *Device) []instance {
			return []instance{{properties: []property{
				{name: "Antecedent", epr: func(b []byte) []byte {
					return appendEPR(b, nsCIM+"CIM_Chassis", []attribute{{name: "CreationClassName", value: "CIM_Chassis"}, {name: "Tag", value: "CIM_Chassis"}})
				}},
				{name: "Dependent", epr: func(b []byte) []byte {
					return appendEPR(b, nsCIM+"CIM_ComputerSystem", []attribute{{name: "CreationClassName", value: "CIM_ComputerSystem"}, {name: "Name", value: "ManagedSystem"}})
				}},
				{name: "PlatformGUID", value: d.id.platformGUID()},
			}}}
		}},
	{name: "CIM_Chassis", uri: nsCIM + "CIM_Chassis", common: true, realm: realmHardwareAsset,
		instances: func(d *Device) []instance {
			return []instance{{keys: []string{"CreationClassName", "Tag"}, properties: []property{
				{name: "ChassisPackageType", value: "0"},
				{name: "CreationClassName", value: "CIM_Chassis"},
				{name: "ElementName", value: "Managed System Chassis"},
				{name: "Manufacturer", value: d.id.manufacturer},
				{name: "Model", value: d.id.model},
				{name: "OperationalStatus", value: "0"},
				{name: "PackageType", value: "3"},
				{name: "SerialNumber", value: d.id.systemSerial},
				{name: "Tag", value: "CIM_Chassis"},
				{name: "Version", value: "1.0"},
			}}}
		}},
	{name: "CIM_Card", uri: nsCIM + "CIM_Card", common: true, realm: realmHardwareAsset,
		instances: func(d *Device) []instance {
			return []instance{{keys: []string{"CreationClassName", "Tag"}, properties: []property{
				{name: "CanBeFRUed", value: "true"},
				{name: "CreationClassName", value: "CIM_Card"},
				{name: "ElementName", value: "Managed System Base Board"},
				{name: "Manufacturer", value: d.id.manufacturer},
				{name: "Model", value: d.id.model + " board"},
				{name: "OperationalStatus", value: "0"},
				{name: "PackageType", value: "9"},
				{name: "SerialNumber", value: d.id.boardSerial},
				{name: "Tag", value: "CIM_Card"},
				{name: "Version", value: "A01"},
			}}}
		}},
	{name: "CIM_SoftwareIdentity", uri: nsCIM + "CIM_SoftwareIdentity", common: true, realm: realmGeneralInfo, instances: softwareIdentities},
}

// classOf finds a class by its resource URI.
var classOf = func() map[string]*class {
	all := map[string]*class{}
	for _, c := range classes {
		c.byName = map[string]*method{}
		for i := range c.methods {
			c.byName[c.methods[i].name] = &c.methods[i]
		}
		c.get, c.enumerate, c.pull = "Get "+c.name, "Enumerate "+c.name, "Pull "+c.name
		all[c.uri] = c
	}
	return all
}()

func generalSettings(d *Device) []instance {
	const name = "Intel(r) AMT: General Settings"
	return []instance{{keys: []string{"InstanceID"}, properties: []property{
		{name: "AMTNetworkEnabled", value: "1"},
		{name: "DDNSPeriodicUpdateInterval", value: "1440"},
		{name: "DDNSTTL", value: "900"},
		{name: "DDNSUpdateByDHCPServerEnabled", value: "true"},
		{name: "DDNSUpdateEnabled", value: "false"},
		{name: "DHCPv6ConfigurationTimeout", value: "0"},
		{name: "DigestRealm", value: d.mem.Realm},
		{name: "DomainName", value: d.id.domain},
		{name: "ElementName", value: name},
		{name: "HostName", value: d.id.host},
		{name: "HostOSFQDN", value: d.id.host + "." + d.id.domain},
		{name: "IdleWakeTimeout", value: "1"},
		{name: "InstanceID", value: name},
		{name: "NetworkInterfaceEnabled", value: "true"},
		{name: "PingResponseEnabled", value: "true"},
		{name: "PowerSource", value: "0"},
		{name: "PreferredAddressFamily", value: "0"},
		{name: "PresenceNotificationInterval", value: "0"},
		{name: "PrivacyLevel", value: "0"},
		{name: "RmcpPingResponseEnabled", value: "true"},
		{name: "SharedFQDN", value: "true"},
		{name: "WsmanOnlyMode", value: "false"},
	}}}
}

func ethernetPorts(d *Device) []instance {
	return []instance{{keys: []string{"InstanceID"}, properties: []property{
		{name: "DHCPEnabled", value: "true"},
		{name: "ElementName", value: "Intel(r) AMT Ethernet Port Settings"},
		{name: "InstanceID", value: "Intel(r) AMT Ethernet Port Settings 0"},
		{name: "IpSyncEnabled", value: "true"},
		{name: "LinkIsUp", value: "true"},
		{name: "LinkPolicy", value: "1"},
		{name: "LinkPolicy", value: "14"},
		{name: "MACAddress", value: d.id.mac},
		{name: "PhysicalConnectionType", value: "0"},
		{name: "SharedDynamicIP", value: "true"},
		{name: "SharedMAC", value: "true"},
		{name: "SharedStaticIp", value: "false"},
	}}}
}

func softwareIdentities(d *Device) []instance {
	version, build := d.release.number(), d.release.buildNumber()
	var all []instance
	for _, v := range [][2]string{{"Flash", version}, {"Netstack", version}, {"AMTApps", version}, {"AMT", version}, {"Sku", "16392"},
		{"VendorID", "8086"}, {"Build Number", build}, {"Recovery Version", version}, {"Recovery Build Num", build}, {"Legacy Mode", "False"},
		{"AMT FW Core Version", version}} {
		all = append(all, instance{keys: []string{"InstanceID"}, properties: []property{
			{name: "InstanceID", value: v[0]}, {name: "IsEntity", value: "true"}, {name: "VersionString", value: v[1]}}})
	}
	return all
}

// authorizationMethods manage the access control list: seven digest users beside the administrator. Method names, fields
// and order are documented; Kerberos users are refused with 2066.
var authorizationMethods = []method{
	{name: "SetAdminAclEntryEx", in: []parameter{p("Username", asText), p("DigestPassword", asBase64)}, run: func(c *call) status {
		if !c.user.may(realmAdministration) {
			return statusInvalidRealm
		}
		name, digest := c.args[0].text, c.args[1].bytes
		if len(digest) != 16 || !legalUser(name) {
			return statusInvalidParameter
		}
		c.d.mem.Admin = &account{Name: strings.Clone(name), MD5: digest, Access: AccessAny, Realms: []uint32{realmAdministration}, Enabled: true}
		c.d.setAdmin()
		c.d.dirty = true
		return 0
	}},
	{name: "GetAdminAclEntry", run: func(c *call) status {
		c.str("Username", c.d.admin.Name)
		return 0
	}},
	{name: "GetAdminAclEntryStatus", run: func(c *call) status {
		c.flag("IsDefault", false)
		return 0
	}},
	{name: "AddUserAclEntryEx", in: []parameter{optional("DigestUsername", asText), optional("DigestPassword", asBase64), optional("KerberosUserSid", asBase64),
		p("AccessPermission", asNumber), p("Realms", asNumbers)}, run: func(c *call) status {
		u, st := c.userFrom(c.args)
		switch {
		case st != 0:
			return st
		case c.d.account(u.Name) != nil:
			return statusDuplicate
		case len(c.d.mem.Users) >= maxUsers:
			return statusMaxLimit
		}
		c.d.mem.LastUser++
		u.Handle = c.d.mem.LastUser
		c.d.mem.Users = append(c.d.mem.Users, u)
		c.d.dirty = true
		c.u32("Handle", u.Handle)
		return 0
	}},
	{name: "EnumerateUserAclEntries", in: []parameter{p("StartIndex", asNumber)}, run: func(c *call) status {
		start := c.args[0].number
		if start == 0 {
			return statusInvalidParameter
		}
		users := c.d.mem.Users
		rest := users[min(int(start-1), len(users)):]
		c.u32("TotalCount", uint32(len(users)))
		c.u32("HandlesCount", uint32(len(rest)))
		for _, u := range rest {
			c.u32("Handles", u.Handle)
		}
		return 0
	}},
	{name: "GetUserAclEntryEx", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		u := c.d.user(c.args[0].number)
		if u == nil {
			return statusInvalidHandle
		}
		c.str("DigestUsername", u.Name)
		c.u32("AccessPermission", uint32(u.Access))
		c.list("Realms", u.Realms)
		return 0
	}},
	{name: "UpdateUserAclEntryEx", in: []parameter{p("Handle", asNumber), optional("DigestUsername", asText), optional("DigestPassword", asBase64),
		optional("KerberosUserSid", asBase64), p("AccessPermission", asNumber), p("Realms", asNumbers)}, run: func(c *call) status {
		old := c.d.user(c.args[0].number)
		if old == nil {
			return statusInvalidHandle
		}
		u, st := c.userFrom(c.args[1:])
		switch {
		case st != 0:
			return st
		case u.Name != old.Name && c.d.account(u.Name) != nil:
			return statusDuplicate
		}
		u.Handle, u.Enabled = old.Handle, old.Enabled
		*old = *u
		c.d.dirty = true
		return 0
	}},
	{name: "RemoveUserAclEntry", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		u := c.d.user(c.args[0].number)
		if u == nil {
			return statusInvalidHandle
		}
		c.d.mem.Users = slices.DeleteFunc(c.d.mem.Users, func(o *account) bool { return o == u })
		c.d.dirty = true
		return 0
	}},
	{name: "SetAclEnabledState", in: []parameter{p("Handle", asNumber), p("Enabled", asBool)}, run: func(c *call) status {
		u := c.d.user(c.args[0].number)
		if u == nil {
			return statusInvalidHandle
		}
		u.Enabled = c.args[1].flag
		c.d.dirty = true
		return 0
	}},
	{name: "GetAclEnabledState", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		u := c.d.user(c.args[0].number)
		if u == nil {
			return statusInvalidHandle
		}
		c.flag("Enabled", u.Enabled)
		return 0
	}},
}

const maxUsers = 7 // digest users beside the administrator (documented)

func (d *Device) user(handle uint32) *account {
	for _, u := range d.mem.Users {
		if u.Handle == handle {
			return u
		}
	}
	return nil
}

// userFrom reads name, digest, Kerberos SID, access and realms.
func (c *call) userFrom(args []argument) (*account, status) {
	u := &account{Name: strings.Clone(args[0].text), MD5: args[1].bytes, Access: int(args[3].number), Realms: args[4].numbers, Enabled: true}
	switch {
	case args[2].present:
		return nil, statusUnsupported
	case !args[0].present || !args[1].present || len(u.MD5) != 16 || u.Access > AccessAny || !legalUser(u.Name):
		return nil, statusInvalidParameter
	}
	if strings.EqualFold(u.Name, "admin") || strings.EqualFold(u.Name, "administrator") {
		return nil, statusInvalidParameter
	}
	for _, r := range u.Realms {
		if r < 2 || r > 24 {
			return nil, statusInvalidRealm
		}
	}
	return u, 0
}

// legalUser holds the documented rules for user names.
func legalUser(s string) bool {
	if s == "" || len(s) > 16 || strings.HasPrefix(s, "$$") {
		return false
	}
	for _, c := range []byte(s) {
		if c < 33 || c > 126 || strings.IndexByte(`:,<>&"`, c) >= 0 {
			return false
		}
	}
	return true
}
