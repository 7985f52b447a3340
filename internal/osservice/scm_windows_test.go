package osservice

const exe = `C:\Program Files\samehost\samehost-client.exe`
