-- Has LuaJIT interpret everything, because compiled code calls no hook that counts instructions.

jit.off()
jit.flush()
