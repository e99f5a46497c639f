"""Files of others: what stands where in them, said by a mapping, and their conversion.

expressions   formulas of columns, parsed and never run as Python
mapping       where objects, mask, events, class and weight stand in a file
named         the layouts of the field, as such mappings
sources       files that are read block by block: HDF5, NumPy, ROOT, parquet
blocks        a mapping applied to a block of rows
trees         events written as ROOT or parquet
convert       files in, a file out
recognise     what a file is that no command can read, and the command that converts it
"""
